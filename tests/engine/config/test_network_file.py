"""Network description files, and trainings that use them."""

import pytest
import yaml

from backbones.mobilenet_v3 import LARGE, mobilenet_v3_small
from backbones.spec import NetSpec
from engine.config import network_file
from engine.config.compose import compose_config, to_yaml, with_backbone
from engine.config.instantiate import build
from engine.config.saved import load_config
from engine.errors import UserError

FOUND = mobilenet_v3_small(width_mult=0.75, output_stride=16)


@pytest.fixture
def path(tmp_path):
    network_file.write(
        tmp_path / "new" / "found.yaml", FOUND.to_dict(), header="Found on a phone.\nBudget 0.7"
    )
    return tmp_path / "new" / "found.yaml"


def test_a_written_network_is_read_back_unchanged(path):
    assert NetSpec.from_dict(network_file.read(path)) == FOUND
    lines = path.read_text().splitlines()
    assert lines[:2] == ["# Found on a phone.", "# Budget 0.7"]
    assert sum(line.startswith("- {kernel: ") for line in lines) == len(FOUND.blocks)


def test_a_training_uses_the_network_in_a_file(path):
    """The file describes the whole network: the backbone settings of task=seg (bn_momentum) do not apply."""
    config = compose_config("train", ["task=seg", f"backbone={path}", "trainer.steps=3"])
    assert build(config.backbone, key="backbone") == FOUND
    assert config.trainer.steps == 3
    model = build(config.model, key="model", num_classes=3)
    assert model.backbone.spec == FOUND


def test_the_file_replaces_the_backbone_of_an_experiment(path):
    config = compose_config("train", ["experiment=seg/lraspp_v3_large", f"backbone={path}", "data.root=x"])
    assert build(config.backbone, key="backbone") == FOUND


def test_the_network_is_saved_in_the_config_of_the_run(path, tmp_path):
    config = compose_config("train", [f"backbone={path}"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    path.unlink()
    again = load_config(tmp_path / "config.yaml", ["backbone.data.dropout=0.5"])
    assert build(again.backbone, key="backbone").dropout == 0.5


def test_replacing_the_network_copies_the_configuration():
    config = compose_config("train", [])
    before = to_yaml(config)
    changed = with_backbone(config, LARGE.to_dict())
    assert build(changed.model, key="model", num_classes=2).backbone.spec == LARGE
    assert to_yaml(config) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 3}, "not a network description"),
        ({"blocks": [3]}, "not a network description"),
        ({"se": 0.25}, "se must be a mapping"),
        ({"kernle": 3}, "NetSpec has no key 'kernle'"),
        ({"stem": 0}, "stem must be an integer of at least 1"),
        ({"stem": "wide"}, "stem must be an integer"),
    ],
)
def test_invalid_network_files(tmp_path, change, message):
    path = tmp_path / "net.yaml"
    path.write_text(yaml.safe_dump(FOUND.to_dict() | change))
    with pytest.raises(UserError, match=message):
        build(compose_config("train", [f"backbone={path}"]).backbone, key="backbone")


def test_a_missing_file():
    with pytest.raises(UserError, match=r"nowhere\.yaml: not a readable"):
        compose_config("train", ["backbone=nowhere.yaml"])


def test_backbone_options_cannot_be_combined_with_a_file(path):
    with pytest.raises(UserError, match="describes the whole network; edit the file"):
        compose_config("train", [f"backbone={path}", "backbone.width_mult=0.5"])
