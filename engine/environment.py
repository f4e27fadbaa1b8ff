"""Environment variables that must be set before torch and albumentations are imported.

The tools import this first. Variables that are already set keep their values.
"""

import os

# By default, waiting OpenMP threads spin. If DataLoader workers or other jobs share the cores, this makes a
# training step several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# By default, OpenCV and FFmpeg print warnings of their own about damaged files and cameras, in several lines.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# By default, albumentations checks the package index for a newer version on import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
