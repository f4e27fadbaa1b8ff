"""A tiny network and synthetic images, for trainings that can be repeated hundreds of times."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.data.loader import DataLoaders, SampleKey, sample_seed
from engine.run.run_folder import RunFolder
from engine.runtime import Runtime
from engine.train import optimization
from engine.train.trainer import Trainer, TrainerOptions

CPU = Runtime(torch.device("cpu"))


class NoiseImages:
    """Noise [3, 8, 8], different in each epoch, and a label map in which 255 does not count.

    Sample i has (7 i + 3) mod 61 + 3 counted pixels, so no two batches weigh the same.
    """

    has_labels = True

    def __init__(self, size: int = 10, seed: int = 5) -> None:
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return self.size

    def image_path(self, index: int) -> str:
        return f"image_{index}.png"

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        random = np.random.default_rng(sample_seed(self.seed, key))
        image = random.normal(size=(3, 8, 8)).astype(np.float32)
        label = np.full(64, 255)
        counted = (7 * key.index + 3) % 61 + 3
        label[:counted] = (image[0] > image[1]).reshape(-1)[:counted]
        return {
            "image": torch.from_numpy(image),
            "label": torch.from_numpy(label.reshape(8, 8)),
            "index": key.index,
        }


class Net(nn.Module):
    def __init__(self, *, norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.classify = nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.classify(self.drop(F.relu(self.norm(self.conv(image)))))


class Kink(nn.Module):
    """Adds sqrt(|0 x|) in the calls numbered `bad`: values are unchanged, but gradients become NaN."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.calls = bad, 0

    def forward(self, x):
        self.calls += 1
        return x + (0 * x).abs().sqrt() if self.calls - 1 in self.bad else x


class ToyTask(nn.Module):
    """Two losses over counted pixels; they are NaN if the batch contains sample `poison`."""

    def __init__(self, model: nn.Module, poison: int | None = None) -> None:
        super().__init__()
        self.model, self.poison = model, poison

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        scores, labels = self.model(batch["image"]), batch["label"]
        summed = F.cross_entropy(scores, labels, ignore_index=255, reduction="sum")
        mean = summed / self.weight(batch).clamp(min=1)
        if self.poison is not None and self.poison in batch["index"].tolist():
            mean = mean * float("nan")
        return {"cross_entropy": mean, "extra": 0.1 * mean}

    def weight(self, batch: dict[str, Any]) -> Tensor:
        return (batch["label"] != 255).sum()

    def predict(self, batch: dict[str, Any]) -> Tensor:
        return self.model(batch["image"]).argmax(1)

    def evaluator(self, dataset: NoiseImages) -> "Accuracy":
        return Accuracy()


class Accuracy:
    """Pixel accuracy, and the indices of the samples that were counted."""

    main_metric = "accuracy"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.all = 0
        self.seen: list[int] = []

    def update(self, outputs: Tensor, batch: dict[str, Any]) -> None:
        counted = batch["label"] != 255
        self.right += int((outputs == batch["label"])[counted].sum())
        self.all += int(counted.sum())
        self.seen += batch["index"].tolist()

    def state(self) -> dict[str, Any]:
        return {"right": self.right, "all": self.all, "seen": self.seen}

    def merge(self, states: list[dict[str, Any]]) -> None:
        self.right, self.all = sum(s["right"] for s in states), sum(s["all"] for s in states)
        self.seen = [index for s in states for index in s["seen"]]

    def compute(self) -> dict[str, Any]:
        return {"accuracy": self.right / max(self.all, 1), "seen": sorted(self.seen)}


OPTIMIZERS = {
    "sgd": lambda model: optimization.sgd(model, lr=0.2, weight_decay=1e-3),
    "adamw": lambda model: optimization.adamw(model, lr=0.02),
    "rmsprop_tf": lambda model: optimization.rmsprop_tf(model, lr=0.01, weight_decay=1e-3),
}


def make_trainer(
    folder: Path,
    *,
    optimizer: str = "sgd",
    runtime: Runtime = CPU,
    workers: int = 0,
    size: int = 10,
    eval_size: int = 7,
    norm: bool = True,
    dropout: float = 0.2,
    poison: int | None = None,
    **options: Any,
) -> Trainer:
    """Build a trainer with its run in `folder`; `options` are passed to `TrainerOptions`."""
    defaults = {"steps": 12, "batch": 4, "eval_every": 6, "save_every": 4, "tensorboard": False}
    resolved = TrainerOptions(**{**defaults, **options}).in_steps(size)
    torch.manual_seed(0)
    task = runtime.place(ToyTask(Net(norm=norm, dropout=dropout), poison))
    folder.mkdir(parents=True, exist_ok=True)
    assert resolved.steps is not None
    return Trainer(
        options=resolved,
        task=task,
        optimizer=OPTIMIZERS[optimizer](task.model),
        schedule=optimization.poly(steps=resolved.steps, warmup_steps=2),
        runtime=runtime,
        run=RunFolder(folder),
        data=DataLoaders(
            train_set=NoiseImages(size), eval_set=NoiseImages(eval_size, seed=9), workers=workers
        ),
    )


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.learner.model.state_dict().items()}
