"""Initial weights: what is loaded, and the report."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.run import checkpoint, initial_weights
from engine.run.initial_weights import (
    backbone_weights,
    carry_rows,
    class_names,
    load_initial,
    load_whole,
    read_state,
)


class Model(nn.Module):
    """Three features, a row of scores per class."""

    class_layers = ("scores.*",)

    def __init__(self, num_classes):
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.scores = nn.Linear(3, num_classes)

    def adapt(self, state):
        return state

    def adapt_backbone(self, state):
        return checkpoint.under("backbone", {k.replace(".", "/", 1): v for k, v in state.items()})

    def carry(self, state, theirs, ours):
        own = self.state_dict()
        keys = [key for key in state if key.startswith("scores")]
        return state | {key: carry_rows(own[key], state[key], theirs, ours) for key in keys}


def saved(folder, num_classes):
    torch.manual_seed(1)
    model = Model(num_classes)
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "model.pth", model


def test_class_rows_are_matched_by_name():
    rows = carry_rows(torch.zeros(3), torch.tensor([1.0, 2, 3, 4]), ("a", "b", "c", "d"), ("d", "x", "b"))
    assert rows.tolist() == [4, 0, 2]


def test_matched_classes_are_reported(tmp_path):
    path, source = saved(tmp_path, 2)
    (tmp_path / "labels.txt").write_text("car\r\nsky\r\n")
    model = Model(3)
    fresh = model.scores.weight.detach().clone()
    report = load_whole(path, model, ClassMap(names=("sky", "dog", "car")), skip=[])
    assert "2 of 3 matched by name, the others are new" in report
    assert torch.equal(model.backbone.weight, source.backbone.weight)
    expected = torch.stack([source.scores.weight[1], fresh[1], source.scores.weight[0]])
    assert torch.equal(model.scores.weight, expected)


def test_class_layers_stay_new_if_unknown_classes_differ_in_number(tmp_path):
    path, _ = saved(tmp_path, 2)
    model = Model(3)
    fresh = model.scores.weight.detach().clone()
    assert "2 skipped, 2 new" in load_whole(path, model, ClassMap(names=("a", "b", "c")), skip=[])
    assert torch.equal(model.scores.weight, fresh)


@pytest.mark.parametrize("key", ["init_from", "weights"])
def test_a_file_has_no_last_checkpoint(tmp_path, key):
    path, _ = saved(tmp_path, 2)
    chosen = {"init_from": None, "weights": None, key: str(path)}
    with pytest.raises(
        UserError, match=f"^checkpoint=last: {key}=.*model.pth is not a run folder; leave out"
    ):
        load_initial(Model(2), ClassMap(names=("a", "b")), **chosen, checkpoint_name="last", published=dict)


def test_only_the_backbone_is_loaded(tmp_path):
    path, source = saved(tmp_path, 2)
    model = Model(2)
    scores = model.scores.weight.detach().clone()
    assert "(backbone): 2 tensors loaded" in backbone_weights(path, model, skip=[])
    assert torch.equal(model.backbone.weight, source.backbone.weight)
    assert torch.equal(model.scores.weight, scores)


def test_the_error_for_weights_that_do_not_fit_names_the_file(tmp_path):
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: weights do not fit.*other\.weight"):
        load_whole(tmp_path / "other.pth", Model(2), ClassMap(names=("a", "b")), skip=[])


def test_blank_lines_of_labels_keep_their_numbers(tmp_path):
    (tmp_path / "labels.txt").write_text("person\n\nbicycle\n\n")
    assert class_names(tmp_path / "w.npz") == ("person", "class 2", "bicycle")
    (tmp_path / "names").write_text("cat\n")
    assert class_names(tmp_path / "w.npz", tmp_path / "names") == ("cat",)


def test_without_a_label_file_the_classes_are_unknown(tmp_path):
    assert class_names(tmp_path / "w.pth") is None
    with pytest.raises(UserError, match="missing"):
        class_names(tmp_path / "w.pth", tmp_path / "missing")


def test_npz_files_can_be_loaded(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.arange(3, dtype=np.float32))
    assert read_state(tmp_path / "w.npz")["a"].tolist() == [0, 1, 2]
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"objects\.npz: "):
        read_state(tmp_path / "objects.npz")


def test_a_run_of_another_task_is_named_with_what_it_is_good_for(tmp_path, monkeypatch):
    def load(*_, **__):
        raise UserError("weights do not fit the model")

    monkeypatch.setattr(initial_weights, "load_whole", load)
    (tmp_path / "config.yaml").write_text("seed: 0\npackage: det\n")
    options = {"init_from": str(tmp_path), "weights": None, "skip": [], "published": None}
    with pytest.raises(UserError) as caught:
        initial_weights.load_initial(Model(2), None, task="seg", checkpoint_name="best", **options)
    assert str(caught.value) == (
        f"init_from={tmp_path}: a run for task=det, not for task=seg; weights={tmp_path} starts from its "
        "backbone"
    )
    with pytest.raises(UserError, match=r"^weights do not fit the model$"):
        initial_weights.load_initial(Model(2), None, task="det", checkpoint_name="best", **options)


@pytest.mark.parametrize(
    ("pixels", "warning"),
    [
        ("inception", "these weights were trained with task.pixels=imagenet, and this run uses inception"),
        ("imagenet", ""),
        (None, ""),
    ],
)
def test_other_pixels_than_those_of_a_run_are_reported(pixels, warning, tmp_path):
    """They change no shape, so the weights load without an error."""
    config = (
        "package: det\ntask:\n  _target_: det.task.Detection\n  pixels: imagenet\n  inference:\n    a: 1\n"
    )
    (tmp_path / "config.yaml").write_text(f"augment:\n  pixels: unit\n{config}", encoding="utf-8")
    model = Model(2)
    report = initial_weights._mismatches(tmp_path, None, model.backbone, pixels)
    assert report == (warning and f"; {warning}")
    file = tmp_path / "checkpoints" / "best.safetensors"
    assert initial_weights._mismatches(file, None, model.backbone, pixels) == report


def test_a_file_of_another_backbone_names_the_key_to_choose_it(tmp_path, monkeypatch):
    def load(*_, **__):
        raise UserError("w.pth: these weights do not fit mobilenet_v3_large with these options: missing a")

    monkeypatch.setattr(initial_weights, "backbone_weights", load)
    monkeypatch.setattr(initial_weights, "find_published", lambda *_, **__: None)
    options = {"init_from": None, "weights": str(tmp_path / "w.pth"), "skip": [], "published": None}
    with pytest.raises(UserError, match=r": missing a; choose the backbone of these weights with backbone=$"):
        initial_weights.load_initial(Model(2), None, task="seg", checkpoint_name="best", **options)
