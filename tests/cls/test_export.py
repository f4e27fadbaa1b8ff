"""Exported classification: the scores of the task, from pixels of 0..255."""

import numpy as np
import pytest
import torch
from torch import nn

from backbones.mobilenet_v4 import mobilenet_v4_small
from cls.decode import decode
from cls.export import ClassificationWithFile, ExportedClassification
from cls.model import Classifier
from cls.task import Classification
from cls.transforms import EvalTransform
from deploy.artifact import Artifact
from deploy.eager import eager_session
from deploy.export.module import export_module
from deploy.formats import find, open_session
from deploy.metadata import describe, network_input
from engine.data.class_map import ClassMap
from tests.refusals import refuses

CLASSES = ClassMap(names=("dark", "gray", "light"), ids=(5, 9, 1))


def tiny():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


def v4():
    """With a hidden layer that has a batch norm, whose statistics are those of noise."""
    model = Classifier(backbone=mobilenet_v4_small(width_mult=0.25, bn_momentum=1.0), num_classes=3)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 64, 64))
    return model


def task(classes=CLASSES, model=tiny):
    torch.manual_seed(0)
    model = model()
    transform = EvalTransform(crop=16)
    return Classification(model=model, classes=classes, eval_transform=transform, pixels="imagenet").eval()


def image_of(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)


@pytest.mark.parametrize(("kind", "library"), [("onnx", "onnx"), ("torch_export", "torch")])
@pytest.mark.parametrize(
    ("normalize", "model"), [(True, tiny), (False, tiny), pytest.param(True, v4, marks=pytest.mark.slow)]
)
def test_a_task_predicts_the_same_with_the_file(tmp_path, kind, library, normalize, model):
    pytest.importorskip(library)
    plain = task(model=model)
    module = ExportedClassification(task=plain, normalize=normalize)
    texts = describe(module, task="cls", facts={})
    image = network_input(module.transform(image_of()), texts, dtype=module.dtype)
    assert (image.dtype, image.shape) == (np.uint8 if normalize else np.float32, (3, 16, 16))
    path = tmp_path / f"m{find(kind).SUFFIX}"
    export_module(
        module, torch.from_numpy(image)[None], path, format=kind, names=module.names, metadata=texts
    )
    expected = [plain.predict_image(image_of(seed)) for seed in range(3)]
    with_file = ClassificationWithFile(task=plain, artifact=Artifact(open_session(path), path))
    predicted = [with_file.predict_image(image_of(seed)) for seed in range(3)]
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    assert not np.allclose(expected[0], expected[1])


def test_the_file_replaces_the_model_alone(tmp_path):
    plain = task()
    plain.label_smoothing = 0.2
    module = ExportedClassification(task=plain)
    assert module.decoding == {"in_graph": False, "activation": "softmax"}
    path = tmp_path / "m.pt2"
    texts = describe(module, task="cls", facts={})
    example = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    export_module(module, example, path, format="torch_export", names=module.names, metadata=texts)
    with_file = ClassificationWithFile(task=plain, artifact=Artifact(open_session(path), path))
    assert with_file.label_smoothing == 0.2
    assert with_file.mix is plain.mix
    assert not with_file.training


def test_agreement_compares_the_most_probable_classes():
    module = ExportedClassification(task=task())
    first, second = np.array([[1.0, 2, 0], [3, 1, 0]]), np.array([[0.0, 2, 1], [0, 1, 0]])
    assert module.agreement([first], [second]) == 0.5


def test_a_file_of_other_classes_is_rejected(tmp_path):
    path = tmp_path / "m.pt2"
    module = ExportedClassification(task=task())
    texts = describe(module, task="cls", facts={})
    example = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    export_module(module, example, path, format="torch_export", names=module.names, metadata=texts)
    other = task(ClassMap(names=("dark", "light", "gray")))
    artifact = Artifact(open_session(path), path)
    refuses(
        lambda: ClassificationWithFile(task=other, artifact=artifact),
        "m.pt2",
        "its classes .* differ from the run's",
    )


@pytest.mark.parametrize(
    ("options", "message"), [({"output": "argmax"}, "output must be logits"), ({"dtype": "int8"}, "dtype")]
)
def test_unknown_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        ExportedClassification(task=task(), **options)


def test_the_decoder_gives_the_tasks_probabilities():
    plain = task()
    module = ExportedClassification(task=plain)
    image = image_of(3)
    pixels = np.ascontiguousarray(module.transform(image).transpose(2, 0, 1))[None]
    outputs = {"logits": eager_session(module)(pixels)[0]}
    np.testing.assert_allclose(decode(outputs, {}, (30, 40)), plain.predict_image(image), atol=1e-6)
    np.testing.assert_allclose(decode({"logits": np.array([[0.0, np.log(3)]])}, {}, (1, 1)), [0.25, 0.75])
