"""How long and how to train: the options of `conf/trainer`."""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """The options of a training.

    Attributes:
        steps, epochs: the length of the run; exactly one is set, epochs become steps once (`resolved`). A run
            that is resumed with more steps goes on; schedules that decay towards the end (poly, cosine) then
            follow the new length, so the learning rate rises at that point.
        batch: images per step, over all processes and micro-batches.
        accumulate: micro-batches per step and process.
        eval_every, save_every: steps between evaluations and between checkpoints; default: a tenth of the
            run.
        log_every: steps between rows of the log.
        clip: largest norm of the gradient (None: no clipping).
        ema: decay of the averaged weights, which are then what is evaluated (None: no averaging).
        precision: fp32, bf16 or fp16 (autocast).
        compile: compile the model with torch.compile.
        sync_bn: BatchNorm over the images of all processes (needs CUDA where there are several).

    Raises:
        ValueError: a number that is not positive, both or neither of steps and epochs, or a batch that does
            not divide into micro-batches.
    """

    steps: int | None = None
    epochs: float | None = None
    batch: int = 8
    accumulate: int = 1
    eval_every: int | None = None
    save_every: int | None = None
    log_every: int = 20
    clip: float | None = None
    ema: float | None = None
    compile: bool = False
    device: str = "auto"
    precision: str = "fp32"
    channels_last: bool = True
    deterministic: bool = False
    sync_bn: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"set one of steps and epochs, got steps={self.steps}, epochs={self.epochs}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.batch % self.accumulate:
            raise ValueError(f"batch={self.batch} must be a multiple of accumulate={self.accumulate}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must lie between 0 and 1 (0.999 is usual), got {self.ema}")

    def resolved(self, num_samples: int) -> "TrainerOptions":
        """The same plan in steps, for a training split of `num_samples`."""
        steps = self.steps
        if steps is None:
            assert self.epochs is not None
            steps = max(1, math.ceil(self.epochs * num_samples / self.batch))
        tenth = max(1, math.ceil(steps / 10))
        return replace(
            self,
            steps=steps,
            epochs=None,
            eval_every=self.eval_every or tenth,
            save_every=self.save_every or tenth,
        )


_POSITIVE = ("steps", "epochs", "batch", "accumulate", "eval_every", "save_every", "log_every", "clip")
