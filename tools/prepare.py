"""Create a run folder from a weight file, for use with eval, predict and init_from. Published networks do
not need it: use `run=<name>` (tools/models.py).

Usage: python tools/prepare.py experiment=<name> init_from=<weights> run=<run folder> [key=value ...]

Examples:
  python tools/prepare.py experiment=det/released init_from=<released .tar.gz, .pb or .npz> run=runs/released
  python tools/prepare.py experiment=cls/mobilenet_v2_torchvision init_from=mobilenet_v2 run=runs/v2
  python tools/eval.py run=runs/released data=coco data.root=/data/coco
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from backbones.weights import catalog
from engine import runtime
from engine.config.compose import to_yaml
from engine.config.instantiate import options
from engine.config.launch import launch
from engine.config.options import TrainOptions
from engine.config.saved import without_data
from engine.config.training import open_run
from engine.errors import UserError
from engine.io.files import write_json
from engine.published import load_for_classes, with_network
from engine.run import checkpoint, initial_weights, run_folder
from engine.run.run_folder import RunFolder


def prepare(config: DictConfig) -> None:
    config, run, _ = open_run(without_data(config))
    chosen = options(TrainOptions, config)
    if chosen.init_from is None:
        raise UserError("init_from is not set; pass init_from=<weight file or name of published weights>")
    source = initial_weights.locate(chosen.init_from, key="init_from", published=catalog.find)
    names = initial_weights.class_names(source, Path(chosen.labels) if chosen.labels else None)
    if not chosen.labels and initial_weights.is_name(chosen.init_from):
        names = catalog.find(chosen.init_from).categories
    task, classes, report = load_for_classes(config, source, names)
    cpu = runtime.start(device="cpu")
    with run_folder.claim_run(run, resumes=False, renames=config.run is None) as path:
        run = RunFolder(path)
        run_folder.create(run, config=to_yaml(config), environment=runtime.describe(cpu))
        write_json(run.classes, classes.to_dict())
        tensors = checkpoint.prefixed("model", task.model.state_dict())
        checkpoint.write(run.best, tensors, {"source": str(source)})
    print(f"{source}: {report}\n{len(classes)} classes\nrun: {run.path}")


if __name__ == "__main__":
    complete = partial(with_network, published=catalog.find, as_published=True)
    launch(prepare, "prepare", __doc__, complete=complete)
