"""The options that the readers of all formats share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from det.data.cleaning import Sizes
from engine.data.images import Orientation

OnError = Literal["fail", "skip"]
"""What to do about images that do not exist: an error now, or one when they are read."""


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """What the readers pass on to the checks of splits.

    Attributes:
        classes: names of the classes to use, in this order; None: all.
        sizes: see `det.data.cleaning.clean_split`.
        allow_same_names: whether images of train and val may have the same names.
        allow_same_files: whether splits may share images.
        orientation: whether boxes refer to upright or to stored images, as in `data.orientation`.
        on_error: `skip` leaves out images that do not exist like those that cannot be read.
    """

    classes: Sequence[str] | None = None
    sizes: Sizes = "check"
    allow_same_names: bool = False
    allow_same_files: bool = False
    orientation: Orientation = "upright"
    on_error: OnError = "fail"
