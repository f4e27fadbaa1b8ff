"""Golden examples can be replayed from their files alone."""

import json

import numpy as np

from deploy.export.comparison import compare_outputs
from deploy.export.golden import read_golden, subsample, subsampling_step, write_golden
from deploy.export.samples import Sample
from tests.deploy.toys import ToyExport, toy_images, toy_session


def test_golden_examples_can_be_replayed(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the network")
    session = toy_session(1)
    comparison = compare_outputs(ToyExport(), session, list(toy_images()))
    samples = [
        Sample(name=f"{number}.png", image=array.transpose(1, 2, 0), input=array)
        for number, array in enumerate(toy_images())
    ]
    write_golden(path, session, samples, comparison, {"miou_file": 71.5})
    text = json.loads((tmp_path / "preprocess.json").read_text())
    assert text["file"] == "m.onnx"
    assert text["preprocessing"]["in_graph"] is True
    assert [entry["name"] for entry in text["classes"]["classes"]] == ["road", "sky"]
    assert (text["miou_file"], text["license"]) == (71.5, "CC0")
    assert [entry["image"] for entry in text["golden"]] == ["0.png", "1.png", "2.png"]
    golden = read_golden(tmp_path)
    assert len(golden) == 3
    for (image, array, stored), entry in zip(golden, text["golden"], strict=True):
        assert (image.transpose(2, 0, 1) == array).all()
        outputs = session(array[None])
        for name, value, subsampled in zip(session.output_names, outputs, stored, strict=True):
            assert list(value.shape) == entry["shapes"][name]
            np.testing.assert_allclose(subsample(value, entry["steps"][name]), subsampled)


def test_large_outputs_are_subsampled():
    values = np.arange(250_000).reshape(2, 125_000)
    step = subsampling_step(values)
    stored = subsample(values, step)
    assert stored.size <= 50_000
    assert (stored == np.arange(0, 250_000, step)).all()
    assert subsampling_step(np.zeros(10)) == 1
