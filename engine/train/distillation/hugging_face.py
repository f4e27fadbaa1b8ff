"""Segmentation models of the `transformers` library as teachers, from a folder on disk."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.data.class_map import ClassMap
from engine.errors import UserError, some

_FIXED_SIZE = ("eomt", "beit", "data2vec-vision")
"""Models whose positions are learned for one size of image."""


def is_model_folder(path: Path) -> bool:
    """Whether this is a folder written by `save_pretrained`, or downloaded from the Hugging Face Hub."""
    try:
        return "model_type" in json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


class HuggingFaceTeacher(nn.Module):
    """Pixels [N, 3, H, W] in 0..255 -> class scores [N, K, h, w], with the columns in the order of `classes`.

    Models that score each pixel (SegFormer, DPT, UPerNet, ...) return their scores. Models that predict masks
    with a class each (EoMT, Mask2Former, ...) return the logarithm of each class's share: the sum over masks
    of the class's probability times the mask's.

    Args:
        model: a `transformers` model for semantic or universal segmentation.
        processor: its image processor, which states the normalization.
        columns: for each class of the data, its number in the model.
    """

    def __init__(self, model: nn.Module, processor: Any, columns: list[int]) -> None:
        super().__init__()
        self.model, self.columns = model, columns
        scale = float(processor.rescale_factor) if processor.do_rescale else 1.0
        mean, deviation = (
            (processor.image_mean, processor.image_std)
            if processor.do_normalize
            else ((0.0,) * 3, (1.0,) * 3)
        )
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) / scale, persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1) / scale, persistent=False)
        self.mean: Tensor
        self.deviation: Tensor
        config: Any = getattr(model, "config", None)
        # Other models take any size, although the configurations of some state one.
        fixed = config.image_size if config is not None and config.model_type in _FIXED_SIZE else None
        self.size = (fixed, fixed) if isinstance(fixed, int) else fixed

    def forward(self, pixels: Tensor) -> Tensor:
        images = (pixels - self.mean) / self.deviation
        if self.size is not None:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        outputs = self.model(pixel_values=images)
        logits = getattr(outputs, "logits", None)
        scores: Tensor = _from_masks(outputs) if logits is None else logits
        return scores[:, self.columns]


def _from_masks(outputs: Any) -> Tensor:
    classes = outputs.class_queries_logits.softmax(-1)[..., :-1]  # the last is "no object"
    masks = outputs.masks_queries_logits.sigmoid()
    return torch.einsum("nqk,nqhw->nkhw", classes, masks).clamp(min=1e-6).log()


def load(folder: Path, classes: ClassMap) -> nn.Module:
    """The teacher in a folder.

    Raises:
        UserError: if `transformers` is not installed, cannot load the folder, or a class of the data is not
            among the model's.
    """
    key = f"distill.teacher={folder}"
    try:
        transformers: Any = import_module("transformers")
    except ModuleNotFoundError:
        raise UserError(f'{key}: transformers is not installed; pip install -e ".[transformers]"') from None
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model = _load_model(transformers, folder)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{key}: transformers cannot load it: {str(error).splitlines()[0]}") from None
    theirs = {name: int(number) for number, name in model.config.id2label.items()}
    if missing := [name for name in classes.names if name not in theirs]:
        raise UserError(
            f"{key}: the model has no class {some(missing)} (it has {len(theirs)}: {some(list(theirs))}); "
            "class names in the data must match the model's"
        )
    return HuggingFaceTeacher(model, processor, [theirs[name] for name in classes.names])


def _load_model(transformers: Any, folder: Path) -> Any:
    options = {"local_files_only": True, "use_safetensors": True}
    try:
        return transformers.AutoModelForSemanticSegmentation.from_pretrained(folder, **options)
    except ValueError:  # the configuration is not of a model that scores each pixel
        return transformers.AutoModelForUniversalSegmentation.from_pretrained(folder, **options)
