"""timm's weights for this project's networks, by timm's names, from the Hugging Face Hub.

Facts come from timm 1.0.31. Results are timm's own (MobileNetV4's from its model cards and release notes),
top-1 and top-5 on ImageNet's validation split, most with bicubic resizing (here it is bilinear). No hash is
published, so the first download's is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache

from backbones.mnasnet import mnasnet_a1, mnasnet_b1, mnasnet_small
from backbones.mobilenet_v2 import mobilenet_v2
from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.mobilenet_v4 import mobilenet_v4_medium, mobilenet_v4_small
from backbones.spec import NetSpec
from backbones.weights.authors import imagenet_categories
from backbones.weights.published import Pixels, Published, backbone_overrides

LICENSE = "Apache-2.0 (timm); the terms of the dataset, ImageNet-1K, may apply to the weights too"

_BUILDERS: dict[str, Callable[..., NetSpec]] = {
    "mobilenet_v3_large": mobilenet_v3_large,
    "mobilenet_v3_small": mobilenet_v3_small,
    "mobilenet_v4_medium": mobilenet_v4_medium,
    "mobilenet_v4_small": mobilenet_v4_small,
    "mobilenet_v2": mobilenet_v2,
    "mnasnet_a1": mnasnet_a1,
    "mnasnet_b1": mnasnet_b1,
    "mnasnet_small": mnasnet_small,
}


def _timm(
    name: str,
    backbone: str,
    options: Mapping[str, object],
    num_params: int,
    results: tuple[float, ...],
    *,
    pixels: Pixels = "imagenet",
    crop: int = 224,
    resize: int = 256,
) -> Published:
    network = (*backbone_overrides(backbone, options), f"task.pixels={pixels}")
    sizes = (f"data.size={crop}", f"data.resize={resize}") if crop != 224 else ()
    return Published(
        name=name,
        url=f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors",
        file=f"timm-{name}.safetensors",
        source="timm",
        license=LICENSE,
        task="cls",
        num_params=num_params,
        categories=imagenet_categories(),
        data="ImageNet-1K",
        metrics=dict(zip(("acc@1", "acc@5"), results, strict=False)),
        pixels=pixels,
        resize=resize,
        crop=crop,
        spec=_BUILDERS[backbone](**options),
        network=network,
        overrides=("task=cls", "data=imagenet", *network, *sizes),
        size_mb=round(4.02 * num_params / 1e6, 1),
    )


_LARGE, _SMALL, _V2 = "mobilenet_v3_large", "mobilenet_v3_small", "mobilenet_v2"
_PYTORCH, _TENSORFLOW = {"bn_eps": 1e-5}, {"padding": "same"}

_Row = tuple[str, str, Mapping[str, object], int, tuple[float, ...]]
"""Name, backbone, its options, parameters, top-1 and top-5."""

_TRAINED_IN_PYTORCH: tuple[_Row, ...] = (
    ("mobilenetv3_large_100.ra_in1k", _LARGE, {}, 5_483_032, (75.766, 92.538)),
    ("mobilenetv3_small_100.lamb_in1k", _SMALL, {}, 2_542_856, (67.656, 87.636)),
    ("mobilenetv3_small_075.lamb_in1k", _SMALL, {"width_mult": 0.75}, 2_041_872, (65.234, 85.446)),
    ("mobilenetv3_small_050.lamb_in1k", _SMALL, {"width_mult": 0.5, "stem": 32}, 1_593_224, (57.91, 80.18)),
    ("mobilenetv2_140.ra_in1k", _V2, {"width_mult": 1.4}, 6_108_776, (76.52, 92.986)),
    ("mobilenetv2_100.ra_in1k", _V2, {}, 3_504_872, (72.976, 91.01)),
    ("mobilenetv2_050.lamb_in1k", _V2, {"width_mult": 0.5}, 1_968_680, (65.95, 86.088)),
    ("mnasnet_100.rmsp_in1k", "mnasnet_b1", {}, 4_383_312, (74.65, 92.124)),
    ("mnasnet_small.lamb_in1k", "mnasnet_small", {}, 2_030_264, (66.196, 86.504)),
    ("semnasnet_100.rmsp_in1k", "mnasnet_a1", {}, 3_887_038, (75.45, 92.594)),
    ("semnasnet_075.rmsp_in1k", "mnasnet_a1", {"width_mult": 0.75}, 2_912_278, (72.992, 91.138)),
)

_TRAINED_IN_TENSORFLOW: tuple[_Row, ...] = (
    ("tf_mobilenetv3_large_100.in1k", _LARGE, {}, 5_483_032, (75.516, 92.594)),
    ("tf_mobilenetv3_large_075.in1k", _LARGE, {"width_mult": 0.75}, 3_993_528, (73.432, 91.352)),
    ("tf_mobilenetv3_large_minimal_100.in1k", _LARGE, {"minimalistic": True}, 3_924_288, (72.258, 90.638)),
    ("tf_mobilenetv3_small_100.in1k", _SMALL, {}, 2_542_856, (67.918, 87.674)),
    ("tf_mobilenetv3_small_075.in1k", _SMALL, {"width_mult": 0.75}, 2_041_872, (65.728, 86.126)),
    ("tf_mobilenetv3_small_minimal_100.in1k", _SMALL, {"minimalistic": True}, 2_044_736, (62.89, 84.24)),
)

_V4_SMALL, _V4_MEDIUM = "mobilenet_v4_small", "mobilenet_v4_medium"
_V4_HALF = (
    "mobilenetv4_conv_small_050.e3000_r224_in1k",
    _V4_SMALL,
    {**_PYTORCH, "width_mult": 0.5},
    2_238_952,
)

_V4: tuple[tuple[_Row, int, int], ...] = (
    # Evaluated at a larger size than trained: crop and shorter side.
    (("mobilenetv4_conv_medium.e500_r256_in1k", _V4_MEDIUM, _PYTORCH, 9_715_512, (80.858, 95.768)), 320, 320),
    (("mobilenetv4_conv_medium.e500_r224_in1k", _V4_MEDIUM, _PYTORCH, 9_715_512, (79.808, 95.186)), 256, 256),
    (("mobilenetv4_conv_small.e2400_r224_in1k", _V4_SMALL, _PYTORCH, 3_774_024, (74.616, 92.072)), 256, 269),
    (("mobilenetv4_conv_small.e1200_r224_in1k", _V4_SMALL, _PYTORCH, 3_774_024, (74.292, 92.116)), 256, 269),
)

_RA4 = ("mobilenetv3_large_100.ra4_e3600_r224_in1k", _LARGE, _PYTORCH, 5_483_032, (77.16,))
_MIIL = ("mobilenetv3_large_100.miil_in21k_ft_in1k", _LARGE, _PYTORCH, 5_483_032, (77.918, 92.914))


def _entries() -> Iterator[Published]:
    for row, crop, resize in _V4:
        yield _timm(*row, crop=crop, resize=resize)
    yield _timm(*_V4_HALF, (65.81,), pixels="inception", crop=256, resize=269)
    yield _timm(*_RA4, pixels="inception", crop=256)
    yield _timm(*_MIIL, pixels="unit")
    for name, backbone, options, num_params, results in _TRAINED_IN_PYTORCH:
        yield _timm(name, backbone, {**_PYTORCH, **options}, num_params, results)
    for name, backbone, options, num_params, results in _TRAINED_IN_TENSORFLOW:
        yield _timm(name, backbone, {**_TENSORFLOW, **options}, num_params, results, pixels="inception")


@cache
def timm_models() -> Mapping[str, Published]:
    """The weights by name; the class names come from torchvision, which takes a second to import."""
    return {published.name: published for published in _entries()}
