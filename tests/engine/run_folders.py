"""Creates run folders without training."""

import torch

from engine.config.compose import compose_config, to_yaml
from engine.config.training import build_task
from engine.data.class_map import ClassMap
from engine.io.files import write_json
from engine.run import checkpoint, run_folder
from engine.run.run_folder import RunFolder

METRICS = {"miou": 0.5, "iou/a": 0.25, "iou/b": None, "num_images": 4}
STATE = {"step": 7, "evaluated_step": 7, "metrics": METRICS}


def make_run(path, *overrides, names=("a", "b"), state=STATE):
    """Create a run folder at `path` with random weights, for a configuration with these overrides."""
    torch.manual_seed(0)
    config = compose_config("train", list(overrides))
    classes = ClassMap(names=names)
    task = build_task(config, classes).eval()
    run = RunFolder(path)
    run_folder.create(run, config=to_yaml(config), environment={"host": "of no interest"})
    write_json(run.classes, classes.to_dict())
    tensors = checkpoint.prefixed("model", task.model.state_dict())
    checkpoint.write(run.best, tensors, {"format": 1, "state": state})
    checkpoint.write(run.last, {**tensors, "optimizer/x": torch.zeros(3)}, {"state": state})
    return path
