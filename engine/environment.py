"""Environment variables that must be set before torch and albumentations are imported.

The tools import this first. Variables that are already set keep their values.
"""

import os

# OpenMP threads spin while they wait for each other. If DataLoader workers or other jobs share the cores,
# they get in each other's way, and a training step takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# albumentations asks the package index for a newer version whenever it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
