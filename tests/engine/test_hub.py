"""Published models: predictions are unchanged, no local paths are published, no code is executed."""

import inspect
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from engine.errors import UserError
from engine.hub import FILES, Pretrained
from engine.run import checkpoint, run_folder
from tests.engine.run_folders import METRICS, STATE, make_run

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def seg_run(tmp_path_factory):
    """A segmentation run whose configuration contains many paths."""
    folder = tmp_path_factory.mktemp("seg")
    home = Path.home()
    return make_run(
        folder / "run",
        "task=seg",
        "data=masks",
        f"data.root={home}/alice/data",
        f"data.cache={folder}/cache",
        "weights=/mnt/alice/net.pth",
        "run=../alice/run",
        "trainer.steps=9",
        "experiment=seg/lraspp_v3_small",
    )


@pytest.fixture(scope="module")
def published(seg_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model"
    return Pretrained.from_pretrained(seg_run).save_pretrained(out, license="cc-by-nc-4.0")


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_published_model_predicts_like_the_run(seg_run, published):
    ours, theirs = Pretrained.from_pretrained(seg_run), Pretrained.from_pretrained(str(published))
    assert not theirs.task.training
    assert theirs.classes == ours.classes
    expected = ours.predict_image(IMAGE)
    assert np.array_equal(theirs.predict_image(IMAGE), expected)
    assert len(np.unique(expected)) == 2  # an image of one class would prove little
    for name, tensor in ours.task.model.state_dict().items():
        assert torch.equal(theirs.task.model.state_dict()[name], tensor)


def test_an_image_can_be_a_path(published, tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "p.png"), IMAGE[..., ::-1])
    model = Pretrained.from_pretrained(published)
    assert np.array_equal(model.predict_image(tmp_path / "p.png"), model.predict_image(IMAGE))
    for wrong in (IMAGE[..., 0], IMAGE.astype(np.float32)):
        with pytest.raises(UserError, match=r"an image must be RGB uint8 \[H, W, 3\]"):
            model.predict_image(wrong)


def test_a_published_detector_predicts_like_the_run(tmp_path):
    run = make_run(tmp_path / "run", "task=det", "data.size=[64,64]", "backbone.width_mult=0.35")
    model = Pretrained.from_pretrained(run)
    again = Pretrained.from_pretrained(model.save_pretrained(tmp_path / "out"))
    for detection, expected in zip(again.predict_image(IMAGE), model.predict_image(IMAGE), strict=True):
        assert torch.equal(detection, expected)


def test_only_the_files_for_inference_are_published(published):
    assert files_of(published) == sorted(FILES)
    tensors, metadata = checkpoint.read(published / "checkpoints" / "best.safetensors")
    assert all(name.startswith("model/") for name in tensors)
    assert metadata["state"]["step"] == 7
    assert json.loads((published / "metrics.json").read_text()) == {**METRICS, "step": 7}


def test_local_paths_are_not_published(seg_run, published):
    text = "".join((published / name).read_text() for name in FILES if "safetensors" not in name)
    assert "alice" in (seg_run / "config.yaml").read_text()
    for private in ("alice", str(Path.home()) + "/", str(seg_run), "/mnt"):
        assert private not in text
    config = yaml.safe_load((published / "config.yaml").read_text())
    assert config["weights"] is config["run"] is config["data"]["cache"] is None
    assert config["data"]["root"] == "<data.root>"  # the reader of masks takes no null
    withheld = Pretrained.from_pretrained(seg_run).withheld
    assert sorted(withheld) == ["data.cache", "data.root", "run", "weights"]
    assert Pretrained.from_pretrained(published).withheld == ()


def test_names_of_published_weights_are_kept_and_lists_of_paths_are_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", "task=seg", "weights=mobilenet_v3_small")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["freeze"] = ["/home/alice"]
    config["overrides"] = ["data.root=/srv/alice"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    out = Pretrained.from_pretrained(run).save_pretrained("out")
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["weights"] == "mobilenet_v3_small"
    assert "alice" not in (out / "config.yaml").read_text()
    assert "started from: mobilenet_v3_small" in (out / "README.md").read_text()


def test_the_model_card_describes_the_run(seg_run, tmp_path):
    model = Pretrained.from_pretrained(seg_run)
    out = model.save_pretrained(
        tmp_path / "out", license="apache-2.0", description="Two kinds of things.", repo_id="me/things"
    )
    _, header, body = (out / "README.md").read_text().split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["license"] == "apache-2.0"
    assert header["pipeline_tag"] == "image-segmentation"
    assert "mobilenet_v3_small" in header["tags"]
    params = sum(p.numel() for p in model.task.model.parameters())
    for expected in (
        'from_pretrained("me/things")',
        f"{params / 1e6:.2f} million parameters",
        "Two kinds of things.",
        "2 classes: a, b",
        "| miou | 0.5 |",
        "after 7 steps",
        "experiment=seg/lraspp_v3_small",
        "9 steps in batches of",
        "started from: other weights of the publisher",
    ):
        assert expected in body
    assert "iou/a" not in body


def test_the_model_card_is_valid_for_the_hub(published):
    library = pytest.importorskip("huggingface_hub")
    data = library.ModelCard.load(published / "README.md").data
    assert (data.license, data.pipeline_tag) == ("cc-by-nc-4.0", "image-segmentation")
    assert data.library_name == "mobilenet-dense"


def test_the_model_card_of_a_run_that_was_not_trained(tmp_path):
    run = make_run(tmp_path / "run", "task=seg", state=None)
    card = (Pretrained.from_pretrained(run).save_pretrained(tmp_path / "out") / "README.md").read_text()
    assert "Not evaluated." in card
    assert "Not trained with" in card
    assert "license" not in card


def test_metrics_of_an_earlier_step_are_not_published(tmp_path):
    run = make_run(tmp_path / "run", "task=seg", state={**STATE, "evaluated_step": 5})
    assert Pretrained.from_pretrained(run).metrics == {}


def test_overrides_are_published(seg_run, tmp_path):
    model = Pretrained.from_pretrained(seg_run, overrides=["inference.flip=true"])
    out = model.save_pretrained(tmp_path / "out")
    assert Pretrained.from_pretrained(out).task.inference.flip
    with pytest.raises(UserError, match=r"did you mean 'inference\.flip'"):
        Pretrained.from_pretrained(seg_run, overrides=["inference.flp=true"])


def test_two_runs_are_not_published_into_one_folder_at_once(seg_run, tmp_path):
    with run_folder.claim(tmp_path / "out"):
        message = "out: another process is writing into this folder; .*choose another out="
        with pytest.raises(UserError, match=message):
            Pretrained.from_pretrained(seg_run).save_pretrained(tmp_path / "out")
    assert files_of(tmp_path / "out") == []


def test_only_a_published_folder_is_overwritten(seg_run, tmp_path):
    model = Pretrained.from_pretrained(seg_run)
    (tmp_path / "out" / ".git").mkdir(parents=True)
    (tmp_path / "out" / ".git" / "HEAD").write_text("ref")
    for _ in range(2):
        out = model.save_pretrained(tmp_path / "out")
    assert files_of(out) == sorted([*FILES, ".git/HEAD"])
    before = (seg_run / "config.yaml").read_bytes()
    shutil.copytree(seg_run, tmp_path / "other")
    for folder in (seg_run, tmp_path / "other"):
        with pytest.raises(UserError, match="choose another folder"):
            model.save_pretrained(folder)
        assert (folder / "config.yaml").read_bytes() == before
    with pytest.raises(UserError, match="choose another folder"):
        Pretrained.from_pretrained(out).save_pretrained(out)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_target_: seg.task.Segmentation", "_target_: os.system", "can only build"),
        (
            "_target_: seg.model.Segmenter",
            "_target_: seg.data.masks.os.system",
            "not a public class or factory function defined in its package",
        ),
        ("seed: 0", "seed: &a 0\nx: *a", "an alias"),
        ("seed: 0", "seed: ${env:HOME}", "only"),
    ],
)
def test_an_untrusted_configuration_is_checked_before_use(published, tmp_path, old, new, message):
    shutil.copytree(published, tmp_path / "evil")
    path = tmp_path / "evil" / "config.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        Pretrained.from_pretrained(tmp_path / "evil")


def test_folders_that_are_not_models(tmp_path, published):
    with pytest.raises(UserError, match="not a run folder"):
        Pretrained.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="neither a run folder nor a Hub repository"):
        Pretrained.from_pretrained("a/b/c")
    with pytest.raises(UserError, match="revision= is only for Hub repositories"):
        Pretrained.from_pretrained(published, revision="main")
    with pytest.raises(UserError, match="device='tpu9000'"):
        Pretrained.from_pretrained(published, device="tpu9000")


def test_without_huggingface_hub(published, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[hub\]'$"):
        Pretrained.from_pretrained("me/things")
    with pytest.raises(UserError, match=r"pip install -e '\.\[hub\]'$"):
        Pretrained.from_pretrained(published).push_to_hub("me/things")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """huggingface_hub with folders as repositories; calls are checked against the real signatures."""
    library = pytest.importorskip("huggingface_hub")
    calls = []

    def stub(owner, name, act):
        signature = inspect.signature(getattr(owner, name))

        def call(*args, **kwargs):
            arguments = signature.bind(*args, **kwargs).arguments
            calls.append((name, arguments))
            return act(**{key: value for key, value in arguments.items() if key != "self"})

        monkeypatch.setattr(owner, name, call)

    def create_repo(repo_id, **_):
        (tmp_path / "hub" / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(repo_id, folder_path, **_):
        shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)

    def snapshot_download(repo_id, **_):
        if not (tmp_path / "hub" / repo_id).is_dir():
            raise library.errors.LocalEntryNotFoundError(f"Cannot find {repo_id}.\n\nNo connection.")
        return str(tmp_path / "hub" / repo_id)

    stub(library.HfApi, "create_repo", create_repo)
    stub(library.HfApi, "upload_folder", upload_folder)
    stub(library, "snapshot_download", snapshot_download)
    return calls


def test_push_to_hub_and_load_by_name(seg_run, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Pretrained.from_pretrained(seg_run)
    url = model.push_to_hub("me/things", private=True, license="mit", revision="v1")
    assert url == "https://huggingface.co/me/things"
    assert files_of(tmp_path / "hub" / "me" / "things") == sorted(FILES)
    assert 'from_pretrained("me/things")' in (tmp_path / "hub" / "me" / "things" / "README.md").read_text()
    again = Pretrained.from_pretrained("me/things", revision="v1")
    assert np.array_equal(again.predict_image(IMAGE), model.predict_image(IMAGE))
    requests = dict(hub)
    assert requests["create_repo"]["private"] is True
    assert requests["upload_folder"]["revision"] == requests["snapshot_download"]["revision"] == "v1"
    assert requests["snapshot_download"]["allow_patterns"] == list(FILES)


def test_errors_of_the_hub_are_reported_in_one_line(hub, seg_run, monkeypatch):
    with pytest.raises(UserError, match=r"^me/nothing: .*: Cannot find me/nothing\. No connection; check"):
        Pretrained.from_pretrained("me/nothing")

    def refuse(*args, **kwargs):
        raise OSError("401\nno token")

    monkeypatch.setattr(pytest.importorskip("huggingface_hub").HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match=r"^me/things: .*: 401 no token; check the name, the login"):
        Pretrained.from_pretrained(seg_run).push_to_hub("me/things")
