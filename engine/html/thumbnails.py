"""Images as JPEG data URIs, for pages that contain everything they show."""

import base64
from pathlib import Path

import cv2
import numpy as np

from engine.contracts import Image
from engine.data.images import read_image
from engine.errors import UserError

_QUALITY = 82


def data_uri(image: Image | Path, *, longest: int) -> str | None:
    """RGB [H, W, 3] or the path of an image, reduced to `longest` pixels on its longer side, as a JPEG data
    URI; None if the file cannot be read."""
    if isinstance(image, Path):
        try:
            image = read_image(image)
        except UserError:
            return None
    height, width = image.shape[:2]
    factor = min(1.0, longest / max(height, width))
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
