"""An exported file used as a network: any number of images, correct pixels, and errors."""

import hashlib
import json
from functools import partial

import numpy as np
import pytest
import torch

from deploy.artifact import Artifact, exported_checkpoint, next_command, origin_notes
from deploy.metadata import describe, network_input
from deploy.session import Session, run_in_batches
from engine.config.compose import compose_config
from engine.config.overrides import quote_path
from engine.data.preprocessing import Normalize
from engine.run.run_folder import RunFolder
from tests.deploy.toys import ToyExport, toy_images, toy_session
from tests.refusals import refuses


@pytest.mark.parametrize(("batch", "expected"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 2]), (8, [8])])
def test_any_number_of_images_goes_through_a_fixed_batch(batch, expected):
    calls = []
    outputs = run_in_batches(toy_session(batch, calls=calls), toy_images())
    assert calls == expected
    np.testing.assert_allclose(outputs[0][:, 0], toy_images().mean((1, 2, 3)), rtol=1e-5)


def test_an_artifact_gets_the_pixels_that_the_task_gives_its_model(tmp_path):
    artifact = Artifact(toy_session(1), tmp_path / "m.onnx")
    raw = torch.from_numpy(toy_images())
    pixels = artifact.normalize(Normalize("imagenet"))(raw)  # the graph normalizes: they stay as they are
    assert torch.equal(pixels, raw.float())
    means = artifact(pixels + 0.3)  # resizing leaves fractions, which are rounded
    np.testing.assert_allclose(means[:, 0], toy_images().mean((1, 2, 3)), rtol=1e-5)


def outside_the_graph():
    """The metadata of a file that takes normalized images."""
    texts = describe(ToyExport(), task="seg", facts={})
    return json.dumps(json.loads(texts["preprocessing"]) | {"in_graph": False})


def test_a_file_without_normalization_gets_the_tasks_own(tmp_path):
    artifact = Artifact(toy_session(1, preprocessing=outside_the_graph()), tmp_path / "m.onnx")
    own = Normalize("imagenet")
    assert artifact.normalize(own) is own
    refuses(lambda: artifact.normalize(Normalize("inception")), "m.onnx", "another normalization")


def test_a_file_of_another_origin_task_or_classes_is_rejected(tmp_path):
    path = tmp_path / "m.onnx"
    bare = Session(run=lambda x: [x], output_names=("y",), runtime="toy")
    refuses(lambda: Artifact(bare, path), "m.onnx", "no metadata", "tools/export.py")
    refuses(lambda: Artifact(toy_session(classes="[1"), path), "no metadata")
    artifact = Artifact(toy_session(), path)
    artifact.check("seg", ("road", "sky"))
    refuses(lambda: artifact.check("det", ("road", "sky")), "task=seg", "this run has task=det")
    refuses(lambda: artifact.check("seg", ("sky", "road")), "its classes", "road, sky")


def test_the_metadata_are_enough_to_prepare_an_input():
    image = toy_images(1)[0].transpose(1, 2, 0)
    texts = describe(ToyExport(), task="seg", facts={}) | {"input": '{"dtype": "uint8"}'}
    assert (network_input(image, texts) == toy_images(1)[0]).all()
    assert network_input(image, texts, dtype="float32").dtype == np.float32
    floats = texts | {"input": '{"dtype": "float32"}'}
    assert network_input(image, floats).dtype == np.float32
    expected = Normalize("imagenet")(torch.from_numpy(toy_images(1)))[0].numpy()
    normalized = network_input(image, texts | {"preprocessing": outside_the_graph()})
    np.testing.assert_allclose(normalized, expected, atol=1e-5)


def test_a_file_of_other_weights_than_the_runs_is_named(tmp_path):
    run = RunFolder(tmp_path / "cats")
    run.best.parent.mkdir(parents=True)
    run.best.write_bytes(b"best")
    run.last.write_bytes(b"last")
    path = tmp_path / "m.onnx"

    def notes(weights, name):
        return origin_notes(
            path, {"checkpoint_sha256": hashlib.sha256(weights).hexdigest(), "run": name}, run
        )

    assert notes(b"best", "cats") == notes(b"last", "renamed") == origin_notes(path, {}, run) == []
    end = f", so its results are not those of {run.path}"
    for weights, checkpoint in [(b"best", "best"), (b"last", "last"), (b"before", None)]:
        digest = hashlib.sha256(weights).hexdigest()
        assert exported_checkpoint({"checkpoint_sha256": digest}, run, "best") == checkpoint
    assert exported_checkpoint({}, run, "last") == "last"
    assert notes(b"before", "cats") == [f"{path}: was exported from earlier weights of this run{end}"]
    assert notes(b"best of dogs", "dogs") == [f"{path}: was exported from another run (dogs){end}"]
    run.last.unlink()  # as in a published folder
    assert notes(b"best of dogs", "dogs") == []


def test_after_the_evaluation_of_an_exported_file_comes_prediction(tmp_path):
    run = tmp_path / "a run"
    chosen = partial(next_command, run, config=compose_config("train", ["task=seg"]))
    assert chosen(None) == f"python tools/export.py run='{run}' format=onnx"
    predict = f"python tools/predict.py run='{run}' artifact=model.onnx"
    assert chosen("model.onnx") == f"{predict} input=<image or folder>"
    scoring = ["data.split=test", "data.limit=9", "+data.exclude=e.txt", "data.error_budget=0.1"]
    overrides = [quote_path("data.root=/a b"), *scoring, "task.scored_per_class=9", "data.eval_size=[64,96]"]
    chosen = partial(chosen, overrides=overrides, checkpoint="last")  # the data were moved, for example
    size = "'data.eval_size=[64,96]'"
    assert chosen(None) == (
        f"python tools/export.py run='{run}' format=onnx checkpoint=last 'data.root=/a b' {size}"
    )
    assert chosen("model.onnx") == f"{predict} {size} input=<image or folder>"
