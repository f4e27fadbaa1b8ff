"""Adds the configuration and sample images to TensorBoard; `engine.train.run_log` writes the numbers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from engine.run.run_folder import RunFolder
from engine.train.trackers.tracked_run import caption


def add_samples(run: RunFolder, step: int, paths: Sequence[Path]) -> None:
    """Write config.yaml as text, and the images."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.path / "tensorboard"))
    lines = run.config.read_text(encoding="utf-8").splitlines()
    writer.add_text("config", "\n".join(f"    {line}" for line in lines), step)
    for path in paths:
        with Image.open(path) as image:
            writer.add_image(
                f"samples/{caption(path)}", np.asarray(image.convert("RGB")), step, dataformats="HWC"
            )
    writer.close()
