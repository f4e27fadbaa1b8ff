"""Writes the model card of a published run: its README.md on the Hugging Face Hub."""

import math
from typing import Any

import yaml

from engine.errors import counted

LIBRARY = "mobilenet-dense"
_MAX_NAMES = 100

_TEXT = """
# {title}

{summary}

## Use

```python
from engine.hub import Pretrained
model = Pretrained.from_pretrained("{source}")
prediction = model.predict_image("image.jpg")
```

`engine` is part of {library}; this folder is one of its run folders: `python tools/predict.py run=<folder>
input=image.jpg` and `python tools/eval.py run=<folder> data.root=<data>` can use it directly.

## Data

{data}

{num_classes} classes: {classes}

## Results

{results}

## Training

{training}
"""


def write(model: Any, *, config: Any, license: str | None, description: str | None, source: str) -> str:
    """The text of a model card.

    Args:
        model: an `engine.hub.Pretrained`.
        config: its configuration as published.
        license: a Hub license identifier; None: the card has no license.
        description: description of the training data; None: the card names the data source's class.
        source: the argument of `from_pretrained` in the example.
    """
    network = _last(config.backbone._target_)
    head = _last(config.model._target_) if "head" not in config.model else _last(config.model.head._target_)
    params = sum(p.numel() for p in model.task.model.parameters())
    text = _TEXT.format(
        title=f"{head} on {network}",
        summary=f"{head} for {model.info.title} on {network}, {params / 1e6:.2f} million parameters, "
        f"{'trained with' if model.step else 'for use with'} {LIBRARY}.",
        source=source,
        library=LIBRARY,
        data=description or f"Read by `{config.data.source._target_}`; the publisher gave no description.",
        num_classes=len(model.classes),
        classes=_names(model.classes.names),
        results=_results(model, config),
        training=_training(model, config),
    )
    header: dict[str, Any] = {"license": license} if license else {}
    header |= {"library_name": LIBRARY, "tags": [LIBRARY, "pytorch", "mobilenet", network]}
    header |= {"pipeline_tag": model.info.hub_pipeline} if model.info.hub_pipeline else {}
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n{text}"


def _names(names: tuple[str, ...]) -> str:
    some = [" ".join(name.split()) for name in names[:_MAX_NAMES]]
    more = f" and {len(names) - _MAX_NAMES} more, in classes.json" if len(names) > _MAX_NAMES else ""
    return ", ".join(some) + more


def _results(model: Any, config: Any) -> str:
    """A table of the overall metrics, without per-class metrics."""
    whole = {name: value for name, value in model.metrics.items() if "/" not in name}
    rows = [f"| {name} | {value:.4g} |" for name, value in whole.items() if _is_number(value)]
    if not rows:
        return "Not evaluated."
    head = [
        f"Split `{config.data.split}`, after {counted(model.step, 'step')}:",
        "",
        "| metric | value |",
        "|---|---|",
    ]
    return "\n".join([*head, *rows, "", "metrics.json also contains per-class metrics."])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _training(model: Any, config: Any) -> str:
    """A list of the most important settings; config.yaml contains all of them."""
    withheld = {"init_from", "weights"}.intersection(model.withheld)
    start = config.get("init_from") or config.get("weights")
    start = start or ("other weights of the publisher" if withheld else "random weights")
    if not model.step:
        return f"Not trained with {LIBRARY}: converted from other weights ({start})."
    trainer, optimizer = config.trainer, config.optimizer
    unit = "step" if trainer.get("steps") else "epoch"
    length = counted(trainer.get(f"{unit}s"), unit)
    choice = f"experiment={config.experiment}" if config.get("experiment") else f"task={model.info.name}"
    rows = {
        "command": f"`python tools/train.py {choice}`, with the values in config.yaml",
        "length": f"{length} in batches of {trainer.get('batch')}; these weights: step {model.step}",
        "optimizer": f"{_last(optimizer._target_)}, learning rate {optimizer.get('lr')}",
        "schedule": _last(config.schedule._target_),
        "started from": start,
        "seed": config.get("seed"),
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())


def _last(target: str) -> str:
    return target.rpartition(".")[2]
