"""The README.md of a published model: a model card, written from what the run itself knows."""

import math
from typing import Any

import yaml

LIBRARY = "mobilenet-dense"
_PIPELINES = {"cls": "image-classification", "seg": "image-segmentation", "det": "object-detection"}
_MOST_NAMES = 100

_TEXT = """
# {title}

{summary}

## Use

```python
from engine.hub import Pretrained
model = Pretrained.from_pretrained("{source}")
found = model.predict_image("picture.jpg")
```

`engine` is part of {library}; this folder is one of its run folders: `python tools/predict.py run=<folder>
input=picture.jpg` and `python tools/eval.py run=<folder> data.root=<data>` take it as it is.

## Data

{data}

{num_classes} classes: {classes}

## Results

{results}

## Training

{training}
"""


def write(model: Any, *, config: Any, license: str | None, description: str | None, source: str) -> str:
    """The text of a card.

    Args:
        model: an `engine.hub.Pretrained`.
        config: its configuration as it is published.
        license: an identifier of the Hub's; None: none is stated.
        description: of the training data; None: its reader is named.
        source: what `from_pretrained` is given in the example.
    """
    network = _last(config.backbone._target_)
    head = _last(config.model._target_) if "head" not in config.model else _last(config.model.head._target_)
    params = sum(p.numel() for p in model.task.model.parameters())
    reader = f"`{config.data.source._target_}`"
    text = _TEXT.format(
        title=f"{head} on {network}",
        summary=f"{head} for {_PIPELINES.get(config.package, config.package).replace('-', ' ')} on {network}, "
        f"{params / 1e6:.2f} million parameters, written by {LIBRARY}.",
        source=source,
        library=LIBRARY,
        data=description or f"Read by {reader}; the publisher gave no description.",
        num_classes=len(model.classes),
        classes=_names(model.classes.names),
        results=_results(model, config),
        training=_training(config, model),
    )
    return f"---\n{_header(config.package, network, license)}---\n{text}"


def _header(room: str, network: str, license: str | None) -> str:
    header: dict[str, Any] = {"license": license} if license else {}
    header |= {"library_name": LIBRARY, "tags": [LIBRARY, "pytorch", "mobilenet", network]}
    if room in _PIPELINES:
        header["pipeline_tag"] = _PIPELINES[room]
    return str(yaml.safe_dump(header, sort_keys=False, allow_unicode=True))


def _names(names: tuple[str, ...]) -> str:
    shown = [" ".join(name.split()) for name in names[:_MOST_NAMES]]
    more = f" and {len(names) - _MOST_NAMES} more, in classes.json" if len(names) > _MOST_NAMES else ""
    return ", ".join(shown) + more


def _results(model: Any, config: Any) -> str:
    """The metrics of the whole split; those of single classes stand in metrics.json."""
    whole = {name: value for name, value in model.metrics.items() if "/" not in name}
    rows = [f"| {name} | {value:.4g} |" for name, value in whole.items() if _is_number(value)]
    if not rows:
        return "Not evaluated."
    head = [f"Split `{config.data.split}`, after {model.step} steps:", "", "| metric | value |", "|---|---|"]
    return "\n".join([*head, *rows, "", "Those of single classes stand in metrics.json."])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _training(config: Any, model: Any) -> str:
    """The keys that matter most; all stand in config.yaml."""
    withheld = {"init_from", "weights"}.intersection(model.withheld)
    start = config.get("init_from") or config.get("weights")
    start = start or ("weights of the publisher's" if withheld else "random weights")
    if not model.step:
        return f"Not trained by {LIBRARY}: made of other weights ({start}) by tools/prepare.py."
    trainer, optimizer = config.trainer, config.optimizer
    length = f"{trainer.steps} steps" if trainer.get("steps") else f"{trainer.get('epochs')} epochs"
    chosen = f"experiment={config.experiment}" if config.get("experiment") else f"task={config.package}"
    rows = {
        "command": f"`python tools/train.py {chosen}`, with the values of config.yaml",
        "length": f"{length} in batches of {trainer.get('batch')}; these weights: step {model.step}",
        "optimizer": f"{_last(optimizer._target_)}, learning rate {optimizer.get('lr')}",
        "schedule": _last(config.schedule._target_),
        "started from": start,
        "seed": config.get("seed"),
    }
    return "\n".join(f"- {name}: {value}" for name, value in rows.items())


def _last(target: str) -> str:
    return target.rpartition(".")[2]
