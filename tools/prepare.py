"""Make a run folder out of a published weight file, for eval, predict and init_from.

Usage: python tools/prepare.py experiment=<name> init_from=<weight file> run=<run folder> [key=value ...]

Examples:
  python tools/prepare.py experiment=det/released init_from=ssd_mnv3_large_coco_tf_weights.npz run=runs/released
  python tools/eval.py run=runs/released data=coco data.root=/data/coco
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from pathlib import Path

from omegaconf import DictConfig

from engine import checkpoint, run_folder, runtime, starting
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
    # Published detectors number their classes from 1, with 0 for the background.
    classes = ClassMap(names=names, ids=tuple(range(1, len(names) + 1)))
    task = build_task(config, classes)
    report = starting.init_from(source, task.model, classes, name=config.checkpoint, skip=list(config.skip))
    run_folder.create(run, config=to_yaml(config), environment=runtime.describe(runtime.start(device="cpu")))
    run_folder.write_json(run.classes, classes.to_dict())
    checkpoint.write(run.best, checkpoint.prefixed("model", task.model.state_dict()), {"source": str(source)})
    print(f"{report}\nrun: {run.path}")


if __name__ == "__main__":
    launch(prepare, "prepare", __doc__)
