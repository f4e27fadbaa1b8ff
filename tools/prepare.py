"""Make a run folder out of a published weight file, for eval, predict and init_from.

Usage: python tools/prepare.py experiment=<name> init_from=<weights> run=<run folder> [key=value ...]

Examples:
  python tools/prepare.py experiment=det/released init_from=<ssd_mnv3_large_coco .npz> run=runs/released
  python tools/prepare.py experiment=cls/mobilenet_v2_torchvision init_from=mobilenet_v2 run=runs/v2
  python tools/eval.py run=runs/released data=coco data.root=/data/coco
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from backbones.weights import catalog
from cls.data.imagenet import class_names
from engine import runtime
from engine.config.compose import build_task, launch, open_run, to_yaml
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.io.files import write_json
from engine.run import checkpoint, initial_weights, run_folder
from engine.run.checkpoint import LoadReport

Names = tuple[str, ...]


def prepare(config: DictConfig) -> None:
    config, run, _ = open_run(config)
    if config.init_from is None:
        raise UserError(
            "init_from is not set; give init_from=<weight file, or the name of published weights>"
        )
    source = initial_weights.locate(config.init_from, published=catalog.find)
    names = initial_weights.class_names(source, Path(config.labels) if config.labels else None)
    if names is None and initial_weights.is_name(config.init_from):
        names = catalog.find(config.init_from).categories
    task, classes, report = load(config, source, names)
    run_folder.create(run, config=to_yaml(config), environment=runtime.describe(runtime.start(device="cpu")))
    write_json(run.classes, classes.to_dict())
    checkpoint.write(run.best, checkpoint.prefixed("model", task.model.state_dict()), {"source": str(source)})
    print(f"{source}: {report}\n{len(classes)} classes\nrun: {run.path}")


def load(config: DictConfig, source: Path, names: Names | None) -> tuple[Any, ClassMap, LoadReport]:
    """The task with the weights, for as many classes as they have."""
    found = initial_weights.read_state(source, config.checkpoint)
    try:
        model = build_task(config, numbered(config.room, names or ("one",))).model
        count = model.num_classes_in(model.adapt(found))
        if names is None and config.room == "cls" and count in (1000, 1001):  # 1001: with a background
            names = class_names()
        if names is None:
            raise UserError(f"{source}: its classes are not known; give labels=<file>, line n for class n")
        more = len(names) - count
        # A detector's list may go on; a classifier's first output may be a background without a name.
        if more not in (0, -1) if config.room == "cls" else more < 0:
            raise UserError(f"labels: {len(names)} names for weights of {count} classes")
        classes = numbered(config.room, names[:count])
        task = build_task(config, classes)
        state = task.model.adapt(found)
        return task, classes, checkpoint.load_strict(task.model, state, skip=list(config.skip))
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


def numbered(room: str, names: Names) -> ClassMap:
    """Classes with ids that count from 1 for detectors, as COCO's do, and else from 0."""
    first = 1 if room == "det" else 0
    return ClassMap(names=names, ids=tuple(range(first, first + len(names))))


if __name__ == "__main__":
    launch(prepare, "prepare", __doc__)
