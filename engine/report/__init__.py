"""The report.html of a run, of an evaluation, and of a comparison of runs.

| module | content |
|---|---|
| `run` | the pages of a training and of an evaluation |
| `sections` | sections that they share: results, curves, speed, images, settings |
| `suspicious` | labels that the network contradicts: what a task reports, and the files for the user |
| `settings` | configurations as flat dicts, and what differs between them |
| `comparison` | several runs side by side |
"""
