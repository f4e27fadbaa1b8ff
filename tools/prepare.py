"""Create a run folder from a published weight file, for use with eval, predict and init_from.

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
from engine import runtime
from engine.config.compose import to_yaml
from engine.config.instantiate import options, task_info
from engine.config.launch import launch
from engine.config.options import TrainOptions
from engine.config.training import build_task, open_run, without_data
from engine.data.class_map import ClassMap
from engine.errors import UserError
from engine.io.files import write_json
from engine.run import checkpoint, initial_weights, run_folder
from engine.run.checkpoint import LoadReport
from engine.run.run_folder import RunFolder

Names = tuple[str, ...]


def prepare(config: DictConfig) -> None:
    config, run, _ = open_run(without_data(config))
    chosen = options(TrainOptions, config)
    if chosen.init_from is None:
        raise UserError("init_from is not set; pass init_from=<weight file or name of published weights>")
    source = initial_weights.locate(chosen.init_from, key="init_from", published=catalog.find)
    names = initial_weights.class_names(source, Path(chosen.labels) if chosen.labels else None)
    if names is None and initial_weights.is_name(chosen.init_from):
        names = catalog.find(chosen.init_from).categories
    task, classes, report = load(config, source, names, chosen)
    cpu = runtime.start(device="cpu")
    with run_folder.claim_run(run, resumes=False, renames=config.run is None) as path:
        run = RunFolder(path)
        run_folder.create(run, config=to_yaml(config), environment=runtime.describe(cpu))
        write_json(run.classes, classes.to_dict())
        tensors = checkpoint.prefixed("model", task.model.state_dict())
        checkpoint.write(run.best, tensors, {"source": str(source)})
    print(f"{source}: {report}\n{len(classes)} classes\nrun: {run.path}")


def load(
    config: DictConfig, source: Path, names: Names | None, chosen: TrainOptions
) -> tuple[Any, ClassMap, LoadReport]:
    """Build the task for the classes of the weights, and load the weights."""
    info, state = task_info(config), initial_weights.read_state(source, chosen.checkpoint)
    try:
        model = build_task(config, ClassMap.numbered(names or ("one",), first_id=info.first_id)).model
        count = model.num_classes_in(model.adapt(state))
        names = names or (info.default_names(count) if info.default_names else None)
        if names is None:
            raise UserError(f"{source}: its class names are unknown; pass labels=<file> (line n: class n)")
        extra = len(names) - count
        # A detector's label list can be longer. A classifier's first output can be an unnamed background.
        if extra not in (0, -1) if info.background else extra < 0:
            raise UserError(f"labels: {len(names)} names for weights of {count} classes; correct the file")
        classes = ClassMap.numbered(names[:count], first_id=info.first_id)
        task = build_task(config, classes)
        report = checkpoint.load_strict(task.model, task.model.adapt(state), skip=list(chosen.skip))
        return task, classes, report
    except ValueError as error:
        raise UserError(str(error) if isinstance(error, UserError) else f"{source}: {error}") from None


if __name__ == "__main__":
    launch(prepare, "prepare", __doc__)
