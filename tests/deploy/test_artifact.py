"""A file in the place of a network: any batch, the right pixels, and refusals; what a comparison finds."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from deploy.artifact import Artifact, describe, in_batches, prepared
from deploy.formats.runtimes import eager
from deploy.formats.session import Session
from deploy.verification import Agreement, compare_outputs, read_golden, thin, write_golden
from engine.data.class_map import ClassMap
from engine.data.preprocessing import Normalize
from tests.refusals import refuses

CLASSES = ClassMap(names=("road", "sky"))


class Toy(nn.Module):
    """What a room's Export looks like from here: one score per image."""

    names = compared = ("mean",)
    output, normalized, dtype, eval_transform = "logits", True, "uint8", "input as stored"
    classes = CLASSES

    def __init__(self, offset=0.0):
        super().__init__()
        self.normalizer, self.offset = Normalize("imagenet"), offset

    def forward(self, images):
        return images.float().mean((1, 2, 3))[:, None] + self.offset

    def agreement(self, ours, theirs):
        return float((np.round(ours[0]) == np.round(theirs[0])).mean())


def session(batch=None, *, calls=None, **metadata):
    def run(images):
        if calls is not None:
            calls.append(len(images))
        return [images.astype(np.float32).mean((1, 2, 3))[:, None]]

    texts = describe(Toy(), room="seg", facts={"license": "CC0"}) | metadata
    shape = (batch, None, None)
    return Session(
        run=run, output_names=("mean",), runtime="toy 1", dtype="uint8", shape=shape, metadata=texts
    )


def images(count=5):
    return np.random.default_rng(0).integers(0, 256, (count, 3, 4, 6), np.uint8)


@pytest.mark.parametrize(("batch", "expected"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 2]), (8, [8])])
def test_any_number_of_images_goes_through_a_fixed_batch(batch, expected, tmp_path):
    calls = []
    found = in_batches(session(batch, calls=calls), images())
    assert calls == expected
    np.testing.assert_allclose(found[0][:, 0], images().mean((1, 2, 3)), rtol=1e-5)


def test_an_artifact_takes_the_pixels_as_a_task_gives_them(tmp_path):
    artifact = Artifact(session(1), tmp_path / "m.onnx")
    own = Normalize("imagenet")
    raw = torch.from_numpy(images())
    given = artifact.normalize(own)(raw)  # normalized in the graph: left as they are
    assert torch.equal(given, raw.float())
    found = artifact(given + 0.3)  # what resizing leaves between whole numbers is rounded
    np.testing.assert_allclose(found[:, 0], images().mean((1, 2, 3)), rtol=1e-5)


def test_a_file_without_normalization_gets_the_tasks_own(tmp_path):
    texts = describe(Toy(), room="seg", facts={})
    outside = json.dumps(json.loads(texts["preprocessing"]) | {"in_graph": False})
    artifact = Artifact(session(1, preprocessing=outside), tmp_path / "m.onnx")
    own = Normalize("imagenet")
    assert artifact.normalize(own) is own
    refuses(lambda: artifact.normalize(Normalize("inception")), "m.onnx", "normalized otherwise")


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    bare = Session(run=lambda x: [x], output_names=("y",), runtime="toy")
    refuses(lambda: Artifact(bare, path), "m.onnx", "no metadata", "tools/export.py")
    refuses(lambda: Artifact(session(classes="[1"), path), "no metadata")
    artifact = Artifact(session(), path)
    artifact.check("seg", ("road", "sky"))
    refuses(lambda: artifact.check("det", ("road", "sky")), "task=seg", "task=det")
    refuses(lambda: artifact.check("seg", ("sky", "road")), "other classes", "road, sky")


def test_the_reference_preprocessing_is_the_tasks():
    picture = images(1)[0].transpose(1, 2, 0)
    texts = describe(Toy(), room="seg", facts={}) | {"input": '{"dtype": "uint8"}'}
    assert (prepared(picture, texts) == images(1)[0]).all()
    floats = texts | {"input": '{"dtype": "float32"}'}
    assert prepared(picture, floats).dtype == np.float32
    outside = json.dumps(json.loads(texts["preprocessing"]) | {"in_graph": False})
    expected = Normalize("imagenet")(torch.from_numpy(images(1)))[0].numpy()
    np.testing.assert_allclose(prepared(picture, texts | {"preprocessing": outside}), expected, atol=1e-5)


def test_a_comparison_finds_what_differs():
    same = compare_outputs(Toy(), session(), list(images()))
    assert same.max_difference < 1e-3
    assert same.agreement == 1
    assert same.batches == (1, 4)
    other = compare_outputs(Toy(offset=2.0), session(2), list(images()))
    assert other.max_difference == pytest.approx(2, abs=1e-3)
    assert other.agreement == 0
    assert other.batches == (1, 2)


def test_a_mix_up_of_images_in_a_fixed_batch_is_found():
    inner = session(2)
    mixed = replace(inner, run=lambda images: inner.run(images[::-1]))
    assert compare_outputs(Toy(), mixed, list(images())).max_difference > 1


def test_beyond_the_budget_is_refused():
    found = Agreement(num_images=1, max_difference=0.5, largest=9, agreement=0.9, exact=None, batches=(1,))
    found.check(max_difference=0.5, agreement=0.9)
    refuses(lambda: found.check(max_difference=0.4, agreement=0.9), "differ by 0.5", "budget.max_difference")
    refuses(lambda: found.check(max_difference=1, agreement=0.95), "0.900000", "budget.agreement")
    nothing = Agreement(
        num_images=1, max_difference=float("nan"), largest=9, agreement=1.0, exact=None, batches=(1,)
    )
    refuses(lambda: nothing.check(max_difference=1e9, agreement=0), "budget")


def test_outputs_of_another_shape_are_refused():
    wrong = Session(run=lambda x: [np.zeros((1, 2), np.float32)], output_names=("mean",), runtime="toy")
    refuses(lambda: compare_outputs(Toy(), wrong, list(images(1))), "mean", r"\(1, 2\)", r"\(1, 1\)")


def test_golden_examples_can_be_replayed(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the network")
    opened = session(1)
    found = compare_outputs(Toy(), opened, list(images()))
    samples = [(f"{i}.png", images()[i].transpose(1, 2, 0), images()[i]) for i in range(5)]
    write_golden(path, opened, samples, found, {"miou_file": 71.5})
    text = json.loads((tmp_path / "preprocess.json").read_text())
    assert text["file"] == "m.onnx"
    assert text["preprocessing"]["in_graph"] is True
    assert [entry["name"] for entry in text["classes"]["classes"]] == ["road", "sky"]
    assert (text["miou_file"], text["license"]) == (71.5, "CC0")
    assert len(text["golden"]) == 3
    golden = read_golden(tmp_path)
    assert [entry["picture"] for entry in text["golden"]] == ["0.png", "1.png", "2.png"]
    for (picture, image, outputs), entry in zip(golden, text["golden"], strict=True):
        assert (picture.transpose(2, 0, 1) == image).all()
        again = opened(image[None])
        for name, value, kept in zip(opened.output_names, again, outputs, strict=True):
            assert list(value.shape) == entry["shapes"][name]
            np.testing.assert_allclose(thin(value, entry["steps"][name]), kept)


def test_large_outputs_are_thinned():
    values = np.arange(250_000).reshape(2, 125_000)
    from deploy.verification import thinning

    step = thinning(values)
    kept = thin(values, step)
    assert kept.size <= 50_000
    assert (kept == np.arange(0, 250_000, step)).all()
    assert thinning(np.zeros(10)) == 1


def test_pytorch_is_compared_to_itself_without_difference():
    found = compare_outputs(Toy(), eager(Toy()), list(images()))
    assert (found.max_difference, found.agreement) == (0, 1)
