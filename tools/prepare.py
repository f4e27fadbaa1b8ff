"""Make a run folder out of a published weight file, for eval, predict and init_from.

Usage: python tools/prepare.py experiment=<name> init_from=<weight file> run=<run folder> [key=value ...]

Examples:
  python tools/prepare.py experiment=det/released init_from=<ssd_mnv3_large_coco .npz> run=runs/released
  python tools/eval.py run=runs/released data=coco data.root=/data/coco
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from engine import checkpoint, run_folder, runtime, starting
from engine.checkpoint import LoadReport
from engine.classes import ClassMap
from engine.config import build_task, launch, open_run, to_yaml
from engine.errors import UserError


def prepare(config: DictConfig) -> None:
    config, run, _ = open_run(config)
    if config.init_from is None:
        raise UserError("init_from is not set; give init_from=<weight file>")
    source = Path(config.init_from)
    names = starting.class_names(source, Path(config.labels) if config.labels else None)
    if names is None:
        raise UserError(f"{source}: its classes are not known; give labels=<file>, line n for class n")
    task, classes, report = load(config, source, names)
    run_folder.create(run, config=to_yaml(config), environment=runtime.describe(runtime.start(device="cpu")))
    run_folder.write_json(run.classes, classes.to_dict())
    checkpoint.write(run.best, checkpoint.prefixed("model", task.model.state_dict()), {"source": str(source)})
    print(f"{source}: {report}\n{len(classes)} classes\nrun: {run.path}")


def load(config: DictConfig, source: Path, names: tuple[str, ...]) -> tuple[Any, ClassMap, LoadReport]:
    """The task with the weights, for as many classes as they have; ids count from 1, as detectors' do."""
    found = starting.read_state(source, config.checkpoint)
    try:
        model = build_task(config, numbered(names)).model
        state = model.adapt(found)
        count = model.num_classes_in(state)
        if count > len(names):
            raise UserError(f"labels: {len(names)} names for weights of {count} classes")
        classes = numbered(names[:count])
        task = build_task(config, classes)
        return task, classes, checkpoint.load_strict(task.model, state, skip=list(config.skip))
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


def numbered(names: tuple[str, ...]) -> ClassMap:
    return ClassMap(names=names, ids=tuple(range(1, len(names) + 1)))


if __name__ == "__main__":
    launch(prepare, "prepare", __doc__)
