"""The networks that the paper's authors released, by name: frozen TensorFlow graphs, all Apache-2.0.

No hash is published for these files, so the first download's is recorded. Results are the authors': mIoU on
Cityscapes val, AP on COCO (object_detection's model zoo), top-1 on ImageNet's validation split.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from backbones.weights.published import Published, backbone_overrides

LICENSE = (
    "Apache-2.0 (TensorFlow model garden); the terms of the dataset, {data}, may apply to the weights too"
)

CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip

NAMES_OF_UNUSED_IDS = {
    12: "street sign", 26: "hat", 29: "shoe", 30: "eye glasses", 45: "plate", 66: "mirror", 68: "window",
    69: "desk", 71: "door", 83: "blender",
}  # fmt: skip
"""Of COCO's category ids 1 to 90, those without annotations."""

_BUILDERS = {"large": mobilenet_v3_large, "small": mobilenet_v3_small}


def imagenet_categories() -> tuple[str, ...]:
    """The names of ImageNet's 1000 classes, as torchvision lists them."""
    from torchvision.models import MobileNet_V3_Large_Weights  # takes a second

    return tuple(MobileNet_V3_Large_Weights.IMAGENET1K_V1.meta["categories"])


def coco_categories() -> tuple[str, ...]:
    """The names of COCO's category ids 1 to 90."""
    from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights

    names = SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.meta["categories"]
    return tuple(NAMES_OF_UNUSED_IDS.get(number, name) for number, name in enumerate(names))[1:]


def _deeplab(size: str, *, miou: float, num_params: int, size_mb: float) -> Published:
    """LR-ASPP at output stride 32; the gate's window, 25x25 with stride 4x5, shrinks to smaller maps."""
    options = {"output_stride": 32, "tail": "rf2", "padding": "same"}
    head = ("model=lraspp", "model.input_size=null", "model.head.pool=paper", "model.head.gate=hard_sigmoid")
    pixels = ("task.pixels=inception", "task.align_corners=true")
    network = (*backbone_overrides(f"mobilenet_v3_{size}", options), *head, *pixels)
    return Published(
        name=f"lraspp_v3_{size}_cityscapes",
        url=f"https://download.tensorflow.org/models/deeplab_mnv3_{size}_cityscapes_trainfine_2019_11_15.tar.gz",
        source="the paper's authors, DeepLab",
        license=LICENSE.format(data="Cityscapes"),
        task="seg",
        num_params=num_params,
        categories=CITYSCAPES,
        data="Cityscapes val",
        metrics={"miou": miou},
        pixels="inception",
        spec=_BUILDERS[size](output_stride=32, tail="rf2", padding="same"),
        network=network,
        overrides=("task=seg", "data=cityscapes", *network),
        size_mb=size_mb,
    )


def _ssdlite(size: str, *, box_map: float, num_params: int, experiment: tuple[str, ...]) -> Published:
    anchors = ("data.size=[320,320]", "data.min_scale=0.2", "task.pixels=inception")
    backbone = backbone_overrides(f"mobilenet_v3_{size}_dagger", {"padding": "same"})
    return Published(
        name=f"ssdlite_v3_{size}_coco",
        url="https://download.tensorflow.org/models/object_detection/"
        f"ssd_mobilenet_v3_{size}_coco_2020_01_14.tar.gz",
        source="the paper's authors, object_detection",
        license=LICENSE.format(data="COCO"),
        task="det",
        num_params=num_params,
        categories=coco_categories(),
        data="COCO",
        metrics={"box_map": box_map},
        pixels="inception",
        spec=_BUILDERS[size](tail="dagger", padding="same", bn_momentum=0.03),
        network=(*backbone, "model=ssdlite", *anchors),
        overrides=experiment,
    )


def _slim(size: str, kind: str, *, top1: float, num_params: int) -> Published:
    """A classifier; `kind`: the width as in the file's name, or "minimalistic"."""
    minimalistic = kind == "minimalistic"
    options: dict[str, Any] = {"padding": "same"}
    options |= {"minimalistic": True} if minimalistic else {}
    options |= {"width_mult": float(kind)} if kind == "0.75" else {}
    network = (*backbone_overrides(f"mobilenet_v3_{size}", options), "task.pixels=inception")
    file = f"v3-{size}-minimalistic_224_1.0" if minimalistic else f"v3-{size}_224_{kind}"
    suffix = "" if kind == "1.0" else f"_{kind.replace('.', '')}"
    return Published(
        name=f"v3_{size}{suffix}_imagenet",
        url=f"https://storage.googleapis.com/mobilenet_v3/checkpoints/{file}_float.tgz",
        source="the paper's authors, TF-Slim",
        license=LICENSE.format(data="ImageNet"),
        task="cls",
        num_params=num_params,
        categories=imagenet_categories(),
        data="ImageNet-1K",
        metrics={"acc@1": top1},
        pixels="inception",
        resize=256,
        crop=224,
        spec=_BUILDERS[size](**options),
        network=network,
        overrides=("task=cls", "data=imagenet", *network),
    )


@cache
def authors_models() -> Mapping[str, Published]:
    """The networks by name; the class names come from torchvision, which takes a second to import."""
    small = ("experiment=det/ssdlite_v3_small_dagger", "task.postprocess.candidates=100")
    networks = (
        _deeplab("large", miou=72.41, num_params=1_507_198, size_mb=17),
        _deeplab("small", miou=68.99, num_params=468_830, size_mb=5),
        _ssdlite("large", box_map=22.6, num_params=3_248_255, experiment=("experiment=det/released",)),
        _ssdlite("small", box_map=15.4, num_params=1_785_743, experiment=small),
        _slim("large", "1.0", top1=75.2, num_params=5_483_032),
        _slim("large", "0.75", top1=73.3, num_params=3_993_528),
        _slim("small", "1.0", top1=67.5, num_params=2_542_856),
        _slim("small", "0.75", top1=65.4, num_params=2_041_872),
        _slim("large", "minimalistic", top1=72.3, num_params=3_924_288),
        _slim("small", "minimalistic", top1=61.9, num_params=2_044_736),
    )
    return {network.name: network for network in networks}
