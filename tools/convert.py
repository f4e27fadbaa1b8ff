"""Convert annotations from labeling tools to masks for segmentation, or to COCO JSON for detection.

Usage: python tools/convert.py input=<folder> out=<new folder> to=<masks | coco> [key=value ...]

Examples:
  python tools/convert.py input=my_data out=my_masks to=masks                 outlines become masks
  python tools/convert.py input=my_data out=my_boxes to=coco                  for detection
  python tools/convert.py input=my_data out=my_masks to=masks format=labelme
  python tools/convert.py input=my_data out=my_masks to=masks boxes=fill      boxes become filled areas
  python tools/train.py task=seg data=masks data.root=my_masks
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import shlex
from pathlib import Path

from doctor.convert.run import convert
from engine.config.launch import launch
from engine.config.options import ConvertOptions

SHOWN = 5


def run(options: ConvertOptions) -> int:
    """Convert a folder; returns the exit status: 1 if files that cannot be read were left out."""
    result = convert(
        Path(options.input).expanduser(),
        Path(options.out).expanduser(),
        to=options.to,
        format=options.format,
        fill_boxes=options.boxes == "fill",
        orientation=options.orientation,
        max_megapixels=options.max_megapixels,
        copy=options.copy,
    )
    print("\n".join(result.lines))
    if result.unreadable:
        more = len(result.unreadable) - SHOWN
        print(f"files left out: {len(result.unreadable)}")
        print("\n".join([*result.unreadable[:SHOWN], *([f"and {more} more"] if more > 0 else [])]))
    print(f"next: python tools/train.py {shlex.join(result.overrides)}")
    return 1 if result.unreadable else 0


if __name__ == "__main__":
    launch(run, "convert", __doc__)
