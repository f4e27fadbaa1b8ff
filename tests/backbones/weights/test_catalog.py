"""Published weights by name: what torchvision says about them is true of the networks here."""

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torchvision

from backbones.weights.catalog import find, names
from cls.model import Classifier
from engine.config.compose import compose_config
from engine.config.instantiate import build
from engine.run.initial_weights import locate, read_state
from seg.data.cityscapes import CITYSCAPES_CLASSES

CLASSIFIERS = [name for name in names() if find(name).task == "cls"]
TORCHVISION = [name for name in names() if find(name).source == "torchvision"]


def test_all_of_torchvisions_weights_for_the_networks_here_are_listed():
    models = [m for m in torchvision.models.list_models() if re.search("mobilenet_v|mnasnet", m)]
    theirs = {
        f"{model}.{weights.name.lower()}"
        for model in models
        if not model.startswith("quantized_")
        for weights in torchvision.models.get_model_weights(model)
    }
    others = ("deeplabv3", "fasterrcnn")  # heads that are not here
    assert set(TORCHVISION) == {name for name in theirs if not name.startswith(others)}


@pytest.mark.parametrize(
    ("name", "url", "metric", "value", "resize"),
    [
        ("mobilenet_v3_large.imagenet1k_v1", "mobilenet_v3_large-8738ca79.pth", "acc@1", 74.042, 256),
        ("mobilenet_v3_large", "mobilenet_v3_large-5c1a4163.pth", "acc@1", 75.274, 232),
        ("MobileNet_V3_Small.IMAGENET1K_V1", "mobilenet_v3_small-047dcff4.pth", "acc@1", 67.668, 256),
        ("mobilenet_v2", "mobilenet_v2-7ebf99e0.pth", "acc@1", 72.154, 232),
        ("mnasnet0_5", "mnasnet0.5_top1_67.823-3ffadce67e.pth", "acc@1", 67.734, 256),
        ("lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_large-d234d4ea.pth", "miou", 57.9, 520),
        (
            "ssdlite320_mobilenet_v3_large",
            "ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
            "box_map",
            21.3,
            None,
        ),
    ],
)
def test_facts_are_those_of_torchvisions_pages(name, url, metric, value, resize):
    published = find(name)
    assert published.url == f"https://download.pytorch.org/models/{url}"
    assert url.partition("-")[2].startswith(published.sha256)
    assert len(published.sha256) == 8
    assert published.metrics[metric] == value
    assert published.resize == resize
    assert published.license.startswith("BSD-3-Clause")
    with pytest.raises(FrozenInstanceError):
        published.url = ""


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_has_the_published_parameters(name):
    published = find(name)
    with torch.device("meta"):
        model = Classifier(backbone=published.spec, num_classes=published.num_classes)
    assert sum(p.numel() for p in model.parameters()) == published.num_params
    assert published.num_classes == 1000
    if published.source == "torchvision":
        assert (published.crop, published.pixels) == (224, "imagenet")


@pytest.mark.parametrize("name", names())
def test_the_overrides_give_the_network(name):
    published = find(name)
    config = compose_config("train", list(published.overrides))
    spec = replace(build(config.backbone, key="backbone"), bn_momentum=published.spec.bn_momentum)
    assert spec == published.spec  # but for the momentum, which only training reads
    assert (config.package, config.task.pixels) == (published.task, published.pixels)
    if published.task == "cls":
        assert (config.data.size, config.data.resize or 256) == (published.crop, published.resize)
    with torch.device("meta"):
        model = build(config.model, key="model", num_classes=published.num_classes)
    assert sum(p.numel() for p in model.parameters()) == published.num_params


@pytest.mark.parametrize(("name", "size"), [("resnet18", (224, 256)), ("efficientnet_b1", (240, 255))])
def test_torchvisions_other_classifiers_have_names_too(name, size):
    published = find(name)
    assert (published.spec, published.task) == (None, "cls")
    config = compose_config("train", list(published.overrides))
    assert (config.data.size, config.data.resize or 256) == size
    model = build(config.model, key="model", num_classes=published.num_classes)
    assert sum(p.numel() for p in model.parameters()) == published.num_params
    state = torchvision.models.get_model(name).state_dict()
    model.backbone.load_state_dict(model.adapt_backbone(state), strict=True)


def test_the_networks_tables_are_read_only_when_a_name_is():
    """The catalog is imported by every training, and few start from published weights."""
    script = "import sys; import backbones.weights.catalog; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "backbones.mnasnet" not in loaded.stdout.split()


def test_categories_are_class_names():
    for name in names():
        published = find(name)
        assert len(set(published.categories)) == published.num_classes
    assert find("mobilenet_v2").categories[:2] == ("tench", "goldfish")
    assert find("lraspp_mobilenet_v3_large").categories[0] == "__background__"  # a class of its own there
    coco = find("ssdlite320_mobilenet_v3_large").categories
    assert (len(coco), coco[0], coco[11], coco[89]) == (90, "person", "class 12", "toothbrush")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'mobilenet_v3_small'.*models\.py` lists"):
        find("mobilnet_v3_small")
    with pytest.raises(ValueError, match="no published weights have that name; `python"):
        find("resnet9")
    with pytest.raises(ValueError, match="no published weights have that name; `python"):
        find("imagenet")  # not mnasnet1_3
    for name in ("IMAGENET1K_V1", "DEFAULT"):  # torchvision's weights=; the first is not mnasnet1_3 either
        with pytest.raises(ValueError, match=r"\(name the network: mobilenet_v3_small, or "):
            find(name)
    for name in ("mobilenetv3", "mobilenet_v3"):  # not mobilenet_v2
        with pytest.raises(ValueError, match=r"did you mean 'mobilenet_v3_(large|small)' or 'mobilenet_v3_"):
            find(name)
    with pytest.raises(ValueError, match=r"did you mean 'mobilenet_v3_large.imagenet1k_v[12]'"):
        find("mobilenet_v3_large.imagenet1k_v3")


def test_the_authors_files():
    """Addresses and results of the authors' model zoos."""
    facts = {
        name: (find(name).url, *find(name).metrics.values())
        for name in names()
        if "the paper" in find(name).source
    }
    models, slim = "download.tensorflow.org/models", "storage.googleapis.com/mobilenet_v3/checkpoints"
    deeplab, detector = "cityscapes_trainfine_2019_11_15.tar.gz", "coco_2020_01_14.tar.gz"
    expected = {
        "lraspp_v3_large_cityscapes": (f"{models}/deeplab_mnv3_large_{deeplab}", 72.41),
        "lraspp_v3_small_cityscapes": (f"{models}/deeplab_mnv3_small_{deeplab}", 68.99),
        "ssdlite_v3_large_coco": (f"{models}/object_detection/ssd_mobilenet_v3_large_{detector}", 22.6),
        "ssdlite_v3_small_coco": (f"{models}/object_detection/ssd_mobilenet_v3_small_{detector}", 15.4),
        "v3_large_imagenet": (f"{slim}/v3-large_224_1.0_float.tgz", 75.2),
        "v3_large_075_imagenet": (f"{slim}/v3-large_224_0.75_float.tgz", 73.3),
        "v3_small_imagenet": (f"{slim}/v3-small_224_1.0_float.tgz", 67.5),
        "v3_small_075_imagenet": (f"{slim}/v3-small_224_0.75_float.tgz", 65.4),
        "v3_large_minimalistic_imagenet": (f"{slim}/v3-large-minimalistic_224_1.0_float.tgz", 72.3),
        "v3_small_minimalistic_imagenet": (f"{slim}/v3-small-minimalistic_224_1.0_float.tgz", 61.9),
    }
    assert facts == {name: (f"https://{url}", result) for name, (url, result) in expected.items()}
    assert find("lraspp_v3_large_cityscapes").categories == CITYSCAPES_CLASSES.names


def test_facts_of_timms_weights_are_those_of_timm():
    timm = pytest.importorskip("timm")
    means = {"imagenet": (0.485, 0.456, 0.406), "inception": (0.5,) * 3, "unit": (0.0,) * 3}
    listed = [name for name in names() if find(name).source == "timm"]
    assert len(listed) == 24
    for name in listed:
        published, theirs = find(name), timm.get_pretrained_cfg(name)
        size, share = theirs.test_input_size or theirs.input_size, theirs.test_crop_pct or theirs.crop_pct
        assert tuple(theirs.mean) == means[published.pixels]
        assert (theirs.hf_hub_id, theirs.license, theirs.num_classes) == (f"timm/{name}", "apache-2.0", 1000)
        assert (published.crop, published.resize) == (size[1], round(size[1] / share))
        assert published.file_name == f"timm-{name}.safetensors"
        with torch.device("meta"):
            model = timm.create_model(name.partition(".")[0])
        assert sum(p.numel() for p in model.parameters()) == published.num_params


@pytest.mark.data
def test_names_of_cocos_categories(data_folder):
    labels = data_folder / "weights" / "ssd_mobilenet_v3_large_coco" / "labels.txt"
    if not labels.is_file():
        pytest.skip(f"needs {labels}")
    assert find("ssdlite_v3_large_coco").categories == tuple(labels.read_text().splitlines()[:90])


@pytest.mark.data
@pytest.mark.parametrize("name", ["mobilenet_v3_small.imagenet1k_v1", "mobilenet_v2.imagenet1k_v1"])
def test_a_file_that_exists_is_not_downloaded(data_folder, name):
    path = locate(name, key="weights", published=find, folder=data_folder / "weights")
    assert path.parent == data_folder / "weights"
    published = find(name)
    model = Classifier(backbone=published.spec, num_classes=published.num_classes)
    model.load_state_dict(model.adapt(read_state(path)), strict=True)
