"""Exported segmentation: the same label maps for every output and every way to enlarge them."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from backbones.mobilenet_v3 import mobilenet_v3_small
from backbones.mobilenet_v4 import mobilenet_v4_medium, mobilenet_v4_small
from backbones.spec import with_output_stride, with_width
from deploy.artifact import Artifact
from deploy.eager import eager_session
from deploy.export.module import export_module
from deploy.export.samples import read_samples
from deploy.formats import open_session
from deploy.metadata import describe
from engine.data.class_map import ClassMap
from engine.data.images import write_png
from seg.decode import decode
from seg.export import ExportedSegmentation, SegmentationWithFile, resize_nearest
from seg.heads import LRASPP
from seg.model import Segmenter
from seg.task import Inference, Segmentation
from seg.transforms import EvalTransform
from tests.refusals import refuses

CLASSES = ClassMap(names=("road", "sky", "car"))


def trained(*, pool="global", align_corners=False, seed=0, backbone=mobilenet_v3_small, **options):
    """A task whose output depends on position: its running statistics are those of noise."""
    torch.manual_seed(seed)
    spec = with_output_stride(with_width(backbone(), 0.35), 16)
    head = partial(LRASPP, pool=pool, align_corners=align_corners, filters=16)
    model = Segmenter(backbone=spec, head=head, num_classes=len(CLASSES))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 96, 128))
    return Segmentation(model=model, classes=CLASSES, align_corners=align_corners, **options).eval()


def images_of(count=1, height=64, width=96):
    smooth = np.random.default_rng(1).integers(0, 256, (count, 3, height // 8, width // 8), np.uint8)
    return smooth.repeat(8, 2).repeat(8, 3)


def exported(module, path, example, **options):
    texts = describe(module, task="seg", facts={})
    kind = {".onnx": "onnx", ".pt2": "torch_export"}[path.suffix]
    example = torch.from_numpy(example)
    export_module(module, example, path, format=kind, names=module.names, metadata=texts, **options)
    return Artifact(open_session(path), path)


@pytest.mark.parametrize("align_corners", [False, True])
def test_label_maps_are_those_that_the_task_predicts(align_corners):
    task = trained(align_corners=align_corners)
    images = torch.from_numpy(images_of(2))
    with torch.inference_mode():
        expected = task.predict({"image": images, "size": (64, 96)})
        label_maps = ExportedSegmentation(task=task, output="argmax", full_size=True)(images)
        logits = ExportedSegmentation(task=task, full_size=True)(images)
    assert len(expected.unique()) > 1
    assert label_maps.dtype == torch.uint8
    assert torch.equal(label_maps, expected)
    assert torch.equal(logits.argmax(1), expected.long())


def test_with_normalize_off_the_graph_takes_normalized_images():
    task = trained()
    images = torch.from_numpy(images_of())
    outside = ExportedSegmentation(task=task, normalize=False, dtype="uint8")
    assert outside.dtype == "float32"
    with torch.inference_mode():
        assert torch.equal(outside(task.normalize(images)), ExportedSegmentation(task=task)(images))


@pytest.mark.parametrize("size", [(64, 96), (33, 7), (1, 1), (8, 12), (5, 100)])
def test_labels_are_enlarged_to_the_nearest(size):
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (2, 8, 12), np.uint8))
    expected = F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0]
    assert torch.equal(resize_nearest(labels, size, align_corners=False).float(), expected)


@pytest.mark.parametrize(
    ("length", "new_length", "expected"), [(3, 5, [0, 1, 1, 2, 2]), (2, 4, [0, 0, 1, 1]), (4, 1, [0])]
)
def test_labels_are_enlarged_between_aligned_corners(length, new_length, expected):
    """Pixel x is at x (length - 1) / (new_length - 1): for 3 -> 5 at 0, 0.5, 1, 1.5, 2."""
    labels = torch.arange(length, dtype=torch.uint8)[None, None]
    assert resize_nearest(labels, (1, new_length), align_corners=True)[0, 0].tolist() == expected


def test_labels_enlarged_last_differ_only_at_edges():
    task = trained()
    images = torch.from_numpy(images_of())
    with torch.inference_mode():
        logits, labels = (
            ExportedSegmentation(task=task, output="argmax", full_size=True, upsample=kind)(images)
            for kind in ("logits", "labels")
        )
    assert labels.shape == logits.shape
    assert 0.8 < (labels == logits).float().mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [mobilenet_v4_small, mobilenet_v4_medium])
def test_the_blocks_of_mobilenet_v4_export(tmp_path, backbone):
    pytest.importorskip("onnx")
    module = ExportedSegmentation(task=trained(backbone=backbone))
    artifact = exported(module, tmp_path / "m.onnx", images_of())
    expected = eager_session(module)(images_of())[0]
    np.testing.assert_allclose(artifact.session(images_of())[0], expected, atol=1e-3)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    "pool", ["large_kernel", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("paper", "global"))]
)
def test_every_pool_exports_at_a_fixed_size(tmp_path, pool):
    pytest.importorskip("onnx")
    module = ExportedSegmentation(task=trained(pool=pool))
    artifact = exported(module, tmp_path / "m.onnx", images_of())
    expected = eager_session(module)(images_of())[0]
    np.testing.assert_allclose(artifact.session(images_of())[0], expected, atol=1e-3)
    assert module.agreement([expected], artifact.session(images_of())) > 0.999


@pytest.mark.slow
def test_the_global_pool_exports_at_any_size_and_batch(tmp_path):
    pytest.importorskip("onnx")
    module = ExportedSegmentation(task=trained(align_corners=True), output="argmax", full_size=True)
    artifact = exported(module, tmp_path / "m.onnx", images_of(), dynamic_batch=True, dynamic_size=True)
    for images in (images_of(1, 64, 96), images_of(3, 104, 72), images_of(2, 128, 128)[..., :127, :121]):
        outputs = artifact.session(np.ascontiguousarray(images))
        assert module.agreement(eager_session(module)(np.ascontiguousarray(images)), outputs) > 0.999


@pytest.mark.parametrize("pool", ["paper", pytest.param("large_kernel", marks=pytest.mark.slow)])
def test_pools_whose_window_follows_the_size_are_rejected_at_any_size(tmp_path, pool):
    module = ExportedSegmentation(task=trained(pool=pool))
    refuses(
        lambda: exported(module, tmp_path / "m.pt2", images_of(), dynamic_size=True),
        r"^dynamic=size: .*; set data\.eval_size=\[h,w\] instead, .*model\.head\.pool=global",
    )


@pytest.mark.parametrize(("output", "full_size"), [("logits", False), ("argmax", True)])
def test_a_task_predicts_the_same_with_the_file(tmp_path, output, full_size):
    task, images = trained(), images_of(3)
    expected = task.predict({"image": torch.from_numpy(images), "size": (70, 110)})
    alone = task.predict_image(images[0].transpose(1, 2, 0))
    module = ExportedSegmentation(task=task, output=output, full_size=full_size)
    with_file = SegmentationWithFile(task=task, artifact=exported(module, tmp_path / "m.pt2", images[:1]))
    predicted = with_file.predict({"image": torch.from_numpy(images), "size": (70, 110)})
    # Enlarged to another size than the input's, label maps from the file lie on the input's grid.
    assert (predicted == expected).float().mean() > (0.999 if output == "logits" else 0.93)
    assert (with_file.predict_image(images[0].transpose(1, 2, 0)) == alone).all()


def test_agreement_is_the_share_of_pixels_with_the_same_class():
    """Of eight pixels in two images, three differ: two in the first image and one in the second."""
    ours = np.array([[[0, 1], [2, 2]], [[1, 1], [0, 0]]], np.uint8)
    theirs = np.array([[[0, 2], [2, 1]], [[1, 1], [0, 1]]], np.uint8)
    maps = ExportedSegmentation(task=trained(), output="argmax")
    assert maps.agreement([ours], [theirs]) == 5 / 8
    assert maps.agreement([ours], [ours]) == 1
    assert maps.agreement([ours], [(ours + 1) % 3]) == 0
    scores = ExportedSegmentation(task=trained())
    one_hot = [np.eye(3, dtype=np.float32)[labels].transpose(0, 3, 1, 2) for labels in (ours, theirs)]
    assert scores.agreement([one_hot[0]], [one_hot[1]]) == 5 / 8
    assert scores.agreement([one_hot[0]], [3 * one_hot[0] - 7]) == 1  # other scores, the same classes


@pytest.mark.parametrize(
    ("options", "names", "compared", "dtype"),
    [
        ({}, ("logits",), ("logits",), "uint8"),
        ({"output": "argmax"}, ("labels",), (), "uint8"),
        ({"dtype": "float32"}, ("logits",), ("logits",), "float32"),
        ({"normalize": False}, ("logits",), ("logits",), "float32"),
    ],
)
def test_outputs_and_input_are_described(options, names, compared, dtype):
    module = ExportedSegmentation(task=trained(), **options)
    assert (module.names, module.compared, module.dtype) == (names, compared, dtype)
    assert module.normalized is options.get("normalize", True)
    output = module(torch.zeros(1, 3, 64, 96, dtype=getattr(torch, dtype)))
    assert output.shape[-2:] == (8, 12)  # the network's grid


@pytest.mark.slow
def test_label_maps_cannot_be_averaged(tmp_path):
    module = ExportedSegmentation(task=trained(), output="argmax")
    artifact = exported(module, tmp_path / "m.pt2", images_of())
    flipped = trained(inference=Inference(flip=True))
    refuses(lambda: SegmentationWithFile(task=flipped, artifact=artifact), "m.pt2", "flip", "output=logits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "boxes"}, "output must be logits or argmax"),
        ({"upsample": "nearest"}, "upsample must be"),
        ({"upsample": "labels"}, "needs output=argmax and full_size=true"),
        ({"upsample": "labels", "output": "argmax"}, "needs output=argmax and full_size=true"),
        ({"upsample": "labels", "full_size": True}, "needs output=argmax and full_size=true"),
        ({"dtype": "int8"}, "dtype must be"),
    ],
)
def test_bad_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        ExportedSegmentation(task=trained(), **options)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"full_size": True}, {"output": "argmax"}, {"output": "argmax", "full_size": True}],
    ids=str,
)
def test_the_decoder_gives_the_tasks_label_map_of_an_image_that_was_resized(align_corners, options):
    task = trained(align_corners=align_corners, eval_transform=EvalTransform(size=(64, 96)))
    module = ExportedSegmentation(task=task, **options)
    image = images_of(1, 104, 136)[0].transpose(1, 2, 0)
    about = {key: json.loads(text) if text[:1] in "{[" else text for key, text in texts_of(module).items()}
    assert about["preprocessing"]["resize"]["size"] == [64, 96]
    pixels = np.ascontiguousarray(module.transform(image).transpose(2, 0, 1))[None]
    outputs = dict(zip(module.names, eager_session(module)(pixels), strict=True))
    labels = decode(outputs, about, image.shape[:2])
    assert labels.shape == (104, 136)
    artifact = Artifact(replace(eager_session(module), metadata=texts_of(module)), Path("m.onnx"))
    expected = SegmentationWithFile(task=task, artifact=artifact).predict_image(image)
    assert len(np.unique(expected)) > 1
    assert (labels == expected).mean() > 0.9995  # sums in another order
    if not options:
        assert (labels == task.predict_image(image)).mean() > 0.9995


def texts_of(module):
    return describe(module, task="seg", facts={})


def test_images_of_several_sizes_are_refused_with_what_can_be_done(tmp_path):
    module = ExportedSegmentation(task=trained(pool="large_kernel"))
    for name, width in (("a", 96), ("b", 104)):
        write_png(tmp_path / f"{name}.png", images_of(1, 64, width)[0].transpose(1, 2, 0))
    files = sorted(tmp_path.iterdir())
    refuses(
        lambda: read_samples(files, module, dynamic_size=False),
        r"different sizes \(64x96 and 64x104\); set data\.eval_size=\[h,w\], .*pool=global",
    )
    refuses(
        lambda: read_samples(files, module, dynamic_size=False, can_be_dynamic=False),
        r"set data\.eval_size=\[h,w\], which resizes them$",
    )
    resized = ExportedSegmentation(task=trained(eval_transform=EvalTransform(size=(64, 96))))
    assert {sample.input.shape for sample in read_samples(files, resized, dynamic_size=False)} == {
        (3, 64, 96)
    }


@pytest.mark.parametrize("pool", ["global", "large_kernel"])
def test_a_window_that_grows_with_the_image_needs_a_fixed_size(pool):
    reason = ExportedSegmentation(task=trained(pool=pool)).fixed_size
    assert ("model.head.pool=large_kernel grows with the image" in reason) == (pool == "large_kernel")
