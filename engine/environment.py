"""What has to stand in the environment before torch and albumentations are loaded.

The tools import this first. Values that are set already stay.
"""

import os

# OpenMP threads spin while they wait for each other. Where loader processes or other jobs share the cores,
# they spin in each other's way, and a training step takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# albumentations asks the package index for a newer version whenever it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
