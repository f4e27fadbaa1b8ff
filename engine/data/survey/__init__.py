"""A first look at an unknown folder, without reading all of it.

| module | content |
|---|---|
| `files` | which files a folder contains, and where |
| `kinds` | what a JSON, XML or text file of annotations is, from parts of it |
| `matching` | how the tasks look for layouts |
"""
