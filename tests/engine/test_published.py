"""Published networks by name: run folders made from released archives, and the network of a training."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mobilenet_dense
from backbones.weights import catalog
from cls.data.imagenet import class_names
from engine.config.compose import compose_config
from engine.config.instantiate import build
from engine.config.runs import TrainedRun
from engine.config.training import build_task
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.published import find_run, run_by_name, with_network
from engine.run.initial_weights import load_initial, locate
from seg.data.cityscapes import CITYSCAPES_CLASSES
from tests.backbones.weights.tensorflow_graphs import made_up_image, outputs_of
from tests.engine.published_files import made_up_release, no_proxy, serving
from tools.train import complete, find_teacher_by_name

AUTHORS = [name for name in catalog.names() if catalog.find(name).source.startswith("the paper's authors")]
SMALL = "lraspp_v3_small_cityscapes"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder served in place of the hosts; downloads, caches and runs go into tmp_path."""
    no_proxy(monkeypatch)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirror").mkdir()
    with serving(tmp_path / "mirror") as (address, _):
        monkeypatch.setenv("MOBILENET_DENSE_MIRROR", address)
        yield tmp_path / "mirror"


def test_all_of_the_authors_networks_are_listed():
    assert len(AUTHORS) == 10


WEEKLY = pytest.mark.weekly
QUICK = ("lraspp_v3_small_cityscapes", "v3_small_imagenet")
ALL = [name if name in QUICK else pytest.param(name, marks=WEEKLY) for name in AUTHORS]


@pytest.mark.weekly
@pytest.mark.parametrize("name", ALL)
def test_a_released_archive_becomes_a_run_folder(mirror, tmp_path, name):
    arrays, network = made_up_release(name, mirror), catalog.find(name)
    run = TrainedRun.open(find_run(name, published=catalog.find))
    assert run.folder.path.resolve() == tmp_path / "runs" / name
    assert (run.info.name, run.classes.names) == (network.task, network.categories)
    model = run.task().model
    assert sum(parameter.numel() for parameter in model.parameters()) == network.num_params
    stem = arrays[next(key for key in arrays if key.endswith("MobilenetV3/Conv/weights"))]
    stored = model.backbone.stem.conv.weight.detach().numpy()
    assert np.array_equal(stored.transpose(2, 3, 1, 0), stem)
    if network.task == "cls":  # without the background
        logits = arrays["MobilenetV3/Logits/Conv2d_1c_1x1/biases"]
        assert np.array_equal(model.classifier.bias.detach().numpy(), logits[1:])


def test_a_run_folder_is_made_once_and_again_if_it_is_outdated(mirror, tmp_path, capsys):
    made_up_release(SMALL, mirror)
    assert run_by_name(["out=x", f"run={SMALL}", "a.b=1"], published=catalog.find) == [
        "out=x",
        f"run=runs/{SMALL}",
        "a.b=1",
    ]
    said = capsys.readouterr().out
    assert "downloading http://127.0.0.1" in said
    assert f"{SMALL}: the paper's authors, DeepLab; 0.47M parameters; Apache-2.0" in said
    assert f"run folder: runs/{SMALL}" in said
    folder = tmp_path / "runs" / SMALL
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints",
        "classes.json",
        "config.yaml",
        "environment.json",
        "published.json",
    ]
    assert run_by_name([f"run={SMALL.upper()}"], published=catalog.find) == [f"run=runs/{SMALL}"]
    assert capsys.readouterr().out == ""
    (folder / "published.json").write_text(json.dumps({"format": 1}))
    (folder / "config.yaml").write_text("of an earlier revision")
    run_by_name([f"run={SMALL}"], published=catalog.find)
    assert "downloading" not in capsys.readouterr().out
    assert TrainedRun.open(folder).classes.colors == CITYSCAPES_CLASSES.colors


def test_another_run_in_its_place_is_not_changed(mirror, tmp_path):
    (tmp_path / "runs" / SMALL).mkdir(parents=True)
    (tmp_path / "runs" / SMALL / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match=f"runs/{SMALL}: contains another run; rename it, or pass run=runs/"):
        find_run(SMALL, published=catalog.find)
    assert (tmp_path / "runs" / SMALL / "config.yaml").read_text() == "mine"


def test_a_run_folder_that_could_not_be_completed_is_made_again(mirror, tmp_path, monkeypatch):
    made_up_release(SMALL, mirror)

    def full(*arguments):
        raise UserError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("engine.published.checkpoint.write", full)
        with pytest.raises(UserError, match="no space left"):
            find_run(SMALL, published=catalog.find)
    assert TrainedRun.open(Path(find_run(SMALL, published=catalog.find))).classes.names[0] == "road"


def test_paths_are_not_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / SMALL).mkdir()
    for path in (SMALL, "runs/x", "./x", "'runs/a,b'"):
        assert run_by_name([f"run={path}"], published=catalog.find) == [f"run={path}"]


def test_names_that_are_unknown_or_only_of_backbones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^run=lraspp_v3_smal: not a run folder .*, and no published .*list"):
        find_run("lraspp_v3_smal", published=catalog.find)
    with pytest.raises(
        UserError,
        match=r"resnet18.*: can only be used as a backbone: weights=resnet18\.image.* backbone=torch",
    ):
        find_run("resnet18", published=catalog.find)
    with pytest.raises(UserError, match=r"^lraspp_v3_smll_cityscapes: .*did you mean 'lraspp_v3_small_citys"):
        mobilenet_dense.load("lraspp_v3_smll_cityscapes")


def test_without_a_connection_nothing_is_left_behind(mirror, tmp_path):
    with pytest.raises(
        UserError, match=rf"^{SMALL}: http://127.*cannot be downloaded .*save it as .*tar\.gz"
    ):
        find_run(SMALL, published=catalog.find)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_file_of_another_network_is_refused(mirror, tmp_path):
    made_up_release("lraspp_v3_large_cityscapes", mirror)
    folder = mirror / "download.tensorflow.org" / "models"
    large, small = (catalog.find(f"lraspp_v3_{size}_cityscapes").file_name for size in ("large", "small"))
    (folder / large).rename(folder / small)
    with pytest.raises(UserError, match="not the weights of mobilenet_v3_small with these options"):
        find_run(SMALL, published=catalog.find)


def test_a_folder_that_cannot_be_written_gives_way_to_the_cache(mirror, tmp_path):
    made_up_release(SMALL, mirror)
    (tmp_path / "runs").write_text("a file")
    assert (
        find_run(SMALL, published=catalog.find) == tmp_path / "cache" / "mobilenet-dense" / "models" / SMALL
    )


def test_a_network_is_loaded_by_name_and_predicts_at_any_size(mirror, tmp_path):
    """The window of the gate, 25x25, is larger than the maps of most of these images."""
    made_up_release(SMALL, mirror)
    predict = mobilenet_dense.load(SMALL)
    assert predict.classes == CITYSCAPES_CLASSES.names
    random = np.random.default_rng(0)
    for size in ((33, 40), (97, 64), (200, 301), (64, 1000)):
        output = predict(random.integers(0, 255, (*size, 3), np.uint8)).output
        assert output.shape == size
    assert not (tmp_path / "runs").exists()


# Trainings


DIFFERENT = ("lraspp", "ssdlite", "v3_large_075", "mobilenetv3_large_100.ra4", "mnasnet0_5")
CHOSEN = [n if n.startswith(DIFFERENT) else pytest.param(n, marks=WEEKLY) for n in catalog.names()]


@pytest.mark.parametrize("name", CHOSEN)
def test_the_network_of_published_weights_is_chosen(name, capsys):
    network = catalog.find(name)
    overrides = with_network([f"init_from={name}"], published=catalog.find)
    config, evaluated = (compose_config("train", o) for o in (overrides, list(network.overrides)))
    assert (config.package, config.task.pixels) == (network.task, network.pixels)
    assert config.task.get("align_corners") == evaluated.task.get("align_corners")
    chosen, published = (build(c.backbone, key="backbone") for c in (config, evaluated))
    assert chosen == replace(published, bn_momentum=chosen.bn_momentum)  # only training reads it
    heads = [c.model.get("head") and dict(c.model.head) for c in (config, evaluated)]
    assert heads[0] == heads[1]
    with torch.device("meta"):
        models = [build(c.model, key="model", num_classes=7) for c in (config, evaluated)]
    without = [re.sub(r"momentum=[\d.]+", "", str(model)) for model in models]
    assert without[0] == without[1]
    assert f"init_from={name} sets backbone=" in capsys.readouterr().out


def test_what_is_typed_takes_precedence(capsys):
    name = "lraspp_v3_large_cityscapes"
    typed = ["task=seg", "data=masks", f"init_from={name}", "backbone.output_stride=16"]
    overrides = complete(typed)
    assert overrides[-4:] == typed
    assert "backbone.tail=rf2" in overrides
    assert "backbone.output_stride=32" not in overrides
    for choice in ("experiment=seg/camvid", "backbone=mobilenet_v3_small", "model=raspp", "task=det"):
        own = [f"init_from={name}", choice]
        assert complete(own) == own
    for spelling in (f"+init_from={name}", f"init_from='{name}'"):
        assert "backbone.tail=rf2" in complete(["task=seg", spelling])
    for other in (["init_from=runs/x"], ["init_from=x.npz"], ["task=seg"], ["init_from=unknown"]):
        assert complete(other) == other
    whole = with_network([f"init_from={name}", "run=x"], published=catalog.find, as_published=True)
    assert whole[:2] == ["task=seg", "data=cityscapes"]


def test_rows_are_carried_by_class_name_from_a_name(mirror):
    arrays = made_up_release(SMALL, mirror)
    config = compose_config("train", complete([f"init_from={SMALL}"]))
    classes = ClassMap(names=("car", "kerb", "road"))
    model = build_task(config, classes).model
    own = model.head.low.bias.detach().clone()
    report = load_initial(
        model, classes, init_from=SMALL, weights=None, published=catalog.find, normalization="imagenet"
    )
    assert "class rows: 2 of 3 matched by name, the others are new" in report
    assert report.endswith("these weights need task.pixels=inception")
    file = locate(SMALL, key="init_from", published=catalog.find)
    report = load_initial(
        model,
        classes,
        init_from=str(file),
        weights=None,
        published=catalog.find,
        normalization="imagenet",
        skip=["head.high.*", "head.low.*"],
    )
    assert report.endswith("the authors' weights need task.pixels=inception")
    theirs = arrays["decoder/feature_projection0/biases"]
    assert model.head.low.bias.tolist() == pytest.approx([float(theirs[13]), float(own[1]), float(theirs[0])])


def test_rows_of_tensorflows_classifiers_are_carried_without_background(mirror):
    name = "v3_small_imagenet"
    arrays = made_up_release(name, mirror)
    config, classes = (
        compose_config("train", complete([f"init_from={name}"])),
        ClassMap(names=("x", "goldfish")),
    )
    model = build_task(config, classes).model
    load_initial(model, classes, init_from=name, weights=None, published=catalog.find)
    assert class_names()[1] == "goldfish"
    stored = arrays["MobilenetV3/Logits/Conv2d_1c_1x1/weights"][0, 0, :, 2]
    assert np.array_equal(model.classifier.weight.detach().numpy()[1], stored)


def test_weights_that_do_not_fit_name_their_network(mirror):
    made_up_release(SMALL, mirror)
    classes = ClassMap(names=("road", "kerb"))
    overrides = ["task=seg", "backbone=mobilenet_v3_small", "model.head.gate=hard_sigmoid"]
    task = build_task(compose_config("train", overrides), classes)
    message = rf"set backbone\.padding=same; {SMALL} (is for task=seg|needs) backbone=mobilenet_v3_small "
    for options in ({"init_from": SMALL, "weights": None}, {"init_from": None, "weights": SMALL}):
        with pytest.raises(UserError, match=message) as caught:
            load_initial(task.model, classes, published=catalog.find, **options)
        assert ("model=lraspp" in str(caught.value)) == (options["weights"] is None)


def test_options_that_weights_need_but_do_not_reveal_are_named(mirror):
    name = "tf_mobilenetv3_small_100.in1k"
    file = mirror / catalog.find(name).url.partition("://")[2]
    file.parent.mkdir(parents=True)
    classes = ClassMap(names=("a", "b"))
    for padding, warning in (("symmetric", "; these weights need backbone.padding=same"), ("same", "")):
        overrides = ["task=cls", "backbone=mobilenet_v3_small", f"backbone.padding={padding}"]
        model = build_task(compose_config("train", overrides), classes).model
        if not file.exists():
            save_file(model.state_dict(), file)
        report = load_initial(
            model, classes, init_from=None, weights=name, published=catalog.find, normalization="inception"
        )
        assert report.partition("; these weights")[1:] == warning.partition("; these weights")[1:]


# Against outputs of the authors' own graphs, all the way from a download by name

GRAPHS = {  # file -> name, changes to the run
    "deeplab_v3_large_os32": ("lraspp_v3_large_cityscapes", []),
    "deeplab_v3_large_os16": ("lraspp_v3_large_cityscapes", ["backbone.output_stride=16"]),
    "deeplab_v3_large_os16_even": ("lraspp_v3_large_cityscapes", ["backbone.output_stride=16"]),
    "deeplab_v3_small_os16": ("lraspp_v3_small_cityscapes", ["backbone.output_stride=16"]),
    "slim_v3_large_1.0_224": ("v3_large_imagenet", []),
    "slim_v3_large_0.75_224": ("v3_large_075_imagenet", []),
    "slim_v3_small_1.0_224": ("v3_small_imagenet", []),
    "slim_v3_large_minimalistic_1.0_224": ("v3_large_minimalistic_imagenet", []),
}


@pytest.mark.data
@pytest.mark.parametrize(
    "graph", [pytest.param(g, marks=pytest.mark.slow if "small" in g else WEEKLY) for g in GRAPHS]
)
def test_a_download_by_name_computes_what_the_authors_graph_does(mirror, data_folder, graph):
    (name, changes), reference = GRAPHS[graph], outputs_of(graph, data_folder)
    made_up_release(name, mirror)  # the rule gives the same weights
    task = TrainedRun.open(find_run(name, published=catalog.find), overrides=changes).task()
    pixels = torch.from_numpy(made_up_image(*reference["size"]).transpose(2, 0, 1).copy())[None]
    with torch.inference_mode():
        scores = task.model(task.normalize(pixels))[0].numpy()
    expected = reference["logits"][1:] if scores.ndim == 1 else reference["logits"].transpose(2, 0, 1)
    assert np.abs(scores - expected).max() < 2e-6


def test_a_teacher_by_name(mirror):
    made_up_release(SMALL, mirror)
    config = compose_config("train", ["task=seg", "data=cityscapes", f"distill.teacher={SMALL}"])
    loss = find_teacher_by_name(config)(CITYSCAPES_CLASSES)
    assert loss.scores(torch.zeros(1, 3, 64, 64)).shape == (1, 19, 8, 8)
    config.distill.teacher = "lraspp_v3_smll_cityscapes"
    with pytest.raises(UserError, match=r"^distill\.teacher=lraspp_v3_smll.*did you mean"):
        find_teacher_by_name(config)


@pytest.mark.weekly
@pytest.mark.parametrize("tag", ["miil_in21k_ft_in1k", "ra4_e3600_r224_in1k", "ra_in1k"])
def test_timms_weights_by_name_give_timms_outputs(mirror, tag):
    """With timm's own normalization of pixels, which differs between these three."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    name, theirs = f"mobilenetv3_large_100.{tag}", timm.create_model("mobilenetv3_large_100").eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    file = mirror / "huggingface.co" / "timm" / name / "resolve" / "main" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(theirs.state_dict(), file)
    task, facts = mobilenet_dense.load(name).task, timm.get_pretrained_cfg(name)
    pixels = torch.from_numpy(made_up_image(64, 64).transpose(2, 0, 1).copy())[None]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (facts.mean, facts.std))
    with torch.inference_mode():
        expected = theirs((pixels / 255 - mean) / std)
        torch.testing.assert_close(task.model(task.normalize(pixels)), expected, rtol=1e-5, atol=1e-4)
