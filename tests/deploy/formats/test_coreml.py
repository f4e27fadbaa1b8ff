"""CoreML: packages that are written here, with their metadata, and not run."""

import importlib.util

import pytest
import torch
from torch import nn

from deploy.export.module import export_module
from deploy.formats import coreml, open_session
from tests.refusals import refuses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed"
    ),
]


def write(path, images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish()).eval()
    return export_module(
        net, images, path, format="coreml", names=["scores"], metadata={"who": "Ä 1"},
    )  # fmt: skip


def test_a_package_has_the_names_and_the_metadata(tmp_path):
    import coremltools

    path = write(tmp_path / "m.mlpackage", torch.rand(1, 3, 8, 12))
    write(path, torch.rand(1, 3, 8, 12))  # over an earlier one
    assert path.is_dir()
    assert coreml.metadata_of(path)["who"] == "Ä 1"
    description = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description
    assert [feature.name for feature in description.input] == ["images"]
    assert list(description.input[0].type.multiArrayType.shape) == [1, 3, 8, 12]
    assert [feature.name for feature in description.output] == ["scores"]
    refuses(lambda: open_session(path), r"m\.mlpackage: CoreML files run only on macOS and iOS")


def test_images_of_bytes_are_refused(tmp_path):
    class Cast(nn.Module):
        def forward(self, images):
            return images.float() / 255

    images = torch.zeros(1, 3, 8, 12, dtype=torch.uint8)
    refuses(
        lambda: export_module(
            Cast(), images, tmp_path / "m.mlpackage", format="coreml", names=["y"], metadata={}
        ),
        "no uint8 image input; set dtype=float32",
    )
