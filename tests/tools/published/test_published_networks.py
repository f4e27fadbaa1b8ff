"""The tools on published networks, by name: a local server takes the place of the authors' hosts."""

import json

import numpy as np
import pytest
import torch

from backbones.mobilenet_v3 import mobilenet_v3_large
from backbones.weights import catalog
from backbones.weights.state_dict import classifier_state
from backbones.weights.tensorflow import LOGITS, Layers
from engine.data.images import read_image, write_png
from engine.run.checkpoint import read_weights
from tests.backbones.weights.tensorflow_graphs import write_released
from tests.engine.published_files import made_up_release, no_proxy, serving
from tests.tools.commands import run


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """A folder that a local server serves in place of the hosts: (folder, address, requests)."""
    no_proxy(monkeypatch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    write_png(tmp_path / "street.png", np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
    (tmp_path / "hosts").mkdir()
    with serving(tmp_path / "hosts") as (address, requests):
        monkeypatch.setenv("MOBILENET_DENSE_MIRROR", address)
        yield tmp_path / "hosts", address, requests


def own_masks(folder):
    """Two training images and one for val, with masks of road and kerb."""
    random = np.random.default_rng(1)
    for split, count in (("train", 2), ("val", 1)):
        for part in ("images", "masks"):
            (folder / part / split).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((64, 96), np.uint8)
            mask[32:] = 1
            write_png(
                folder / "images" / split / f"{split}{number}.png",
                random.integers(0, 255, (64, 96, 3), np.uint8),
            )
            write_png(folder / "masks" / split / f"{split}{number}.png", mask)
    classes = [{"id": 0, "name": "road"}, {"id": 1, "name": "kerb"}]
    (folder / "classes.json").write_text(json.dumps({"classes": classes, "ignore": [255]}))


@pytest.mark.slow
def test_a_first_prediction_is_one_command(hosts, tmp_path):
    (folder, address, requests), name = hosts, "lraspp_v3_small_cityscapes"
    made_up_release(name, folder)
    said = run("predict", f"run={name}", "input=street.png", cwd=tmp_path)
    path = "download.tensorflow.org/models/deeplab_mnv3_small_cityscapes_trainfine_2019_11_15.tar.gz"
    assert f"downloading {address}/{path}\n" in said
    assert f"out: runs/{name}/predict\n" in said
    assert read_image(tmp_path / "runs" / name / "predict" / "overlays" / "street.png").shape[1] == 90
    again = run("predict", f"run={name}", "input=street.png", cwd=tmp_path)
    assert "downloading" not in again
    assert requests == [f"/{path}"]
    own_masks(tmp_path / "own")
    trained = run(
        "train", "task=seg", "data=masks", "data.root=own", f"init_from={name}", "data.workers=0",
        "run=tuned", "trainer.steps=1", "trainer.batch=2", "trainer.tensorboard=false", "samples=0",
        cwd=tmp_path,
    )  # fmt: skip
    assert "class rows: 1 of 2 matched by name, the others are new" in trained
    listed = run("models", "only=seg", cwd=tmp_path)
    assert f"{name}" in listed
    assert "on disk" in listed
    assert "parameters  468,830" in run("models", f"name={name}", cwd=tmp_path)


def test_a_wrong_name_is_one_line(tmp_path):
    said = run("eval", "run=lraspp_v3_smal_cityscapes", cwd=tmp_path, status=1)
    assert "did you mean 'lraspp_v3_small_cityscapes'" in said
    assert said.count("\n") == 1
    said = run("models", "name=lraspp", cwd=tmp_path, status=1)
    assert said.startswith("error: name=lraspp: no published weights have that name")


# With the data


@pytest.mark.data
@pytest.mark.weekly
def test_the_released_detector_by_name_reaches_its_ap(hosts, data_folder, tmp_path):
    """A frozen graph made of the released constants; the original graph, run by OpenCV: .357, .550, .361."""
    constants = data_folder / "weights" / "ssd_mobilenet_v3_large_coco" / "ssd_mnv3_large_coco_tf_weights.npz"
    if not constants.is_file():
        pytest.skip(f"needs {constants}")
    network = catalog.find("ssdlite_v3_large_coco")
    archive = hosts[0] / network.url.partition("://")[2]
    archive.parent.mkdir(parents=True, exist_ok=True)
    with np.load(constants) as arrays:
        write_released(archive, {name: arrays[name] for name in arrays.files})
    images, truth = (
        data_folder / "coco128" / part for part in ("images/val2017", "instances_val2017_128.json")
    )
    data = ["data=coco", f"data.val.images={images}", f"data.val.annotations={truth}", "data.workers=0"]
    run("eval", "run=ssdlite_v3_large_coco", *data, "worst=0", "out=scores", cwd=tmp_path)
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    scores = [metrics[name] for name in ("map", "map_50", "map_75")]
    assert scores == pytest.approx([0.3573, 0.5503, 0.3629], abs=5e-4)


@pytest.mark.data
@pytest.mark.weekly
def test_the_minimalistic_classifier_by_name_reaches_its_accuracy(hosts, data_folder, tmp_path):
    """Google's weights, from a file with torchvision's names, as TensorFlow's graph would hold them."""
    weights = data_folder / "weights" / "v3_large_minimalistic_torchvision_keys_bnfit_1001.pth"
    if not weights.is_file():
        pytest.skip(f"needs {weights}")
    spec = mobilenet_v3_large(minimalistic=True, padding="same")
    state, layers = classifier_state(read_weights(weights), spec), Layers()
    layers.backbone(spec, "MobilenetV3")
    layers.biased("hidden", "MobilenetV3/Conv_2")
    layers.biased("classifier", f"MobilenetV3/{LOGITS}")
    network = catalog.find("v3_large_minimalistic_imagenet")
    archive = hosts[0] / network.url.partition("://")[2]
    archive.parent.mkdir(parents=True, exist_ok=True)
    arrays = {theirs: tensorflow_layout(theirs, state[ours]) for ours, theirs in layers.pairs.items()}
    write_released(archive, arrays, graph="v3-large-minimalistic_224_1.0_float/graph.pb")
    root = tmp_path / "imagenet"
    root.mkdir()
    (root / "val").symlink_to(data_folder / "imagenet_sample")
    names = sorted(path.name for path in (root / "val").iterdir() if path.suffix == ".JPEG")
    (root / "val.txt").write_text("".join(f"{name} {index}\n" for index, name in enumerate(names)))
    options = ["data.workers=0", "worst=0", "out=scores"]
    run("eval", "run=v3_large_minimalistic_imagenet", f"data.root={root}", *options, cwd=tmp_path)
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert (metrics["num_images"], metrics["top1"]) == (1000, pytest.approx(0.814, abs=0.0021))


def tensorflow_layout(name, tensor):
    tensor = tensor[:, :, None, None] if tensor.dim() == 2 else tensor
    if tensor.dim() == 4:
        tensor = (
            tensor.permute(2, 3, 0, 1) if name.endswith("depthwise_weights") else tensor.permute(2, 3, 1, 0)
        )
    return tensor.to(torch.float32).contiguous().numpy()
