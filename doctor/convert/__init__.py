"""Converts annotations of other tools to formats that the tasks read.

| module | content |
|---|---|
| `readers` | one module per format |
| `records` | annotated images, independent of the format |
| `geometry` | shapes as pixels |
| `writing` | the images of the new folder |
| `masks`, `coco` | the two kinds of results |
| `run` | reading, writing, and what is reported |
"""
