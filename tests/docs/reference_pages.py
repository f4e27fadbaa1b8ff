"""Writes docs/reference/command-line.md and configuration-keys.md from conf/ and the tools' --help texts, and
docs/guides/models.md from the catalog of published networks.

    python -m tests.docs.reference_pages

The pages are committed, so that they can be read without building anything; a test keeps them up to date.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from backbones.weights import catalog
from tests.docs.documented import ROOT, TOOLS

CONF = ROOT / "conf"
COMMAND_LINE = ROOT / "docs" / "reference" / "command-line.md"
CONFIGURATION_KEYS = ROOT / "docs" / "reference" / "configuration-keys.md"
MODELS = ROOT / "docs" / "guides" / "models.md"
NOTE = "<!-- Written by `python -m tests.docs.reference_pages`; do not edit. -->"
ORDER = (
    "check",
    "convert",
    "train",
    "eval",
    "compare",
    "predict",
    "export",
    "serve",
    "benchmark",
    "search",
    "models",
    "prepare",
    "publish",
)
TASKS = {"seg": "segmentation", "det": "detection", "cls": "classification"}


COMMAND_LINE_INTRODUCTION = """
Every tool takes `key=value` arguments: `python tools/<tool>.py key=value ...`. `--help` lists a tool's
groups and keys, `--cfg job` prints the composed configuration instead of running, and `-m` runs a sweep
([configuration](../guides/configuration.md)). All tools take `extend=<folder>` for [your own
code](../extend/index.md).

Exit status: 0 on success, 1 after an error, 75 if a signal stopped a training run, which then saved a
checkpoint, 130 after Ctrl-C at any other time.
"""
KEYS_INTRODUCTION = """
The groups of `conf/` with their options and keys. `group=option` chooses a file, and `group.key=value`
sets a key. A key with the default `???` must be set; `${...}` refers to another key.
[Configuration](../guides/configuration.md) explains how they work together. Keys outside of groups belong
to a [tool](command-line.md).
"""

MODELS_INTRODUCTION = """
Networks that the paper's authors, torchvision and timm have trained. Use their names wherever you would
pass a run folder or weights; each file is downloaded once.

```bash
python tools/models.py                                          # this list, with what is on disk
python tools/models.py name=lraspp_v3_large_cityscapes          # one network in detail
python tools/predict.py run=lraspp_v3_large_cityscapes input=street.jpg
python tools/predict.py run=ssdlite_v3_large_coco input=photos
python tools/eval.py run=lraspp_v3_small_cityscapes data=cityscapes data.root=/data/cityscapes
python tools/export.py run=ssdlite_v3_large_coco format=onnx input=photos
python tools/train.py task=seg data=masks data.root=my_data init_from=lraspp_v3_large_cityscapes
python tools/train.py experiment=det/finetune data=voc data.root=my_data init_from=ssdlite_v3_large_coco
python tools/train.py task=cls data=folders data.root=my_images init_from=v3_small_imagenet
```

```python
import mobilenet_dense

mobilenet_dense.load("lraspp_v3_large_cityscapes")("street.jpg").save("street_labels.png")
```

| where | what the name stands for |
|---|---|
| `run=` | the run folder `runs/<name>`, made on first use as if the network had been trained here |
| `init_from=` | the whole network; classes whose names match yours keep their rows |
| `weights=` | its backbone only; choose a matching `backbone=` yourself |
| `distill.teacher=` | a teacher for the same classes |
| `mobilenet_dense.load` | a predictor; its run folder is in the user's cache |

An existing file or folder with the same name takes precedence. If `runs/` cannot be written, run folders
are in the user's cache. Unless you set `experiment=`, `backbone=` or `model=`, `init_from=<name>` also
chooses the network and its preprocessing, and prints them. Single options that you type, such as
`backbone.output_stride=16`, take precedence.
"""
MODELS_NOTES = """
## Files

Files are saved in torch.hub's folder (`$TORCH_HOME/hub/checkpoints`, by default
`~/.cache/torch/hub/checkpoints`) and verified by their SHA-256. torchvision's file names contain its
first digits. The others publish no hash: if your first download contains weights, its hash is printed,
recorded next to the file (`<file>.sha256`), and must match from then on. Without a connection, the error
message says where to save the file. To use a mirror, set `MOBILENET_DENSE_MIRROR=https://mirror.example`:
the address is then `https://mirror.example/<host>/<path>` instead of `https://<host>/<path>`. A folder
works too (`file:///mnt/mirror`).

The authors' files are frozen TensorFlow graphs in tar archives. Only the graph's constants are read;
nothing is run, and damaged or hostile archives are refused.

## How this was verified

The hosts `download.tensorflow.org`, `storage.googleapis.com` and `huggingface.co` could not be reached
when this was written (29 November 2026), so no released file was downloaded. Tests verify this instead:

- With synthetic weights in archives of the same format, the outputs of DeepLab (V3-Large and V3-Small,
  output strides 16 and 32, odd and even sizes), R-ASPP and TF-Slim's classifiers differ by at most 5e-7
  from those of the authors' code (`tests/backbones/weights/test_tensorflow_weights.py`).
- The released COCO detector, from a frozen graph made from its weights, scores 35.73 AP, 55.03 AP50 and
  36.29 AP75 on 128 images of val2017; the original graph scores 35.7, 55.0 and 36.1
  ([detection](../results/detection.md)).
- Google's minimalistic classifier scores 81.4 top-1 on 1000 ImageNet images
  ([classification](../results/classification.md)).
- Every name builds a network with the published number of parameters. Facts about timm's weights come
  from timm 1.0.31.

The results in the tables are the publishers' own. The authors evaluate Cityscapes on images padded from
1024x2048 to 1025x2049; here, images keep their size. The gate of their LR-ASPP averages over a window of
25x25 features with stride (4, 5). Where an image has fewer than 769 pixels along a side, the window
shrinks to the feature map.

`mobilenetv3_large_100.ra4_e3600_r224_in1k` and `mobilenetv4_conv_small_050.e3000_r224_in1k` were trained with
`task.pixels=inception`, according to timm; timm's `miil` weights use `task.pixels=unit` (x / 255).
"""


def models() -> str:
    networks = [catalog.find(name) for name in catalog.names()]
    sections = []
    for task, title in TASKS.items():
        lines = [
            "| name | published result | parameters | download | license | source |",
            "|---|---|---|---|---|---|",
        ]
        for network in (network for network in networks if network.task == task):
            size = f"[{network.size_mb:.0f} MB]" if network.size_mb else "[file]"
            license = network.license.partition(";")[0].partition(" (")[0]
            facts = (
                f"{network.results}, {network.data}",
                f"{network.num_params / 1e6:.2f}M",
                f"{size}({network.url})",
                license,
            )
            lines.append(f"| `{network.name}` | {' | '.join(facts)} | {network.source} |")
        sections.append(f"## {title.capitalize()}\n\n" + "\n".join(lines))
    return _page("# Published networks", MODELS_INTRODUCTION, *sections, MODELS_NOTES.strip())


def command_line() -> str:
    tools = sorted(TOOLS, key=lambda tool: ORDER.index(tool.stem))
    return _page("# Command line", COMMAND_LINE_INTRODUCTION, *(_tool(tool) for tool in tools))


def configuration_keys() -> str:
    others = ("experiment", "loader")
    groups = [path for path in sorted(CONF.iterdir()) if path.is_dir() and path.name not in others]
    sections = [_group(group) for group in groups]
    return _page("# Configuration keys", KEYS_INTRODUCTION, *sections, _experiments())


def _page(title: str, introduction: str, *sections: str) -> str:
    return "\n\n".join([title, NOTE, introduction.strip(), *sections]) + "\n"


def _tool(tool: Path) -> str:
    text = ast.get_docstring(ast.parse(tool.read_text(encoding="utf-8"))) or ""
    summary, _, rest = text.partition("\n\nUsage: ")
    usage, _, examples = rest.partition("\n\nExamples:\n")
    path = CONF / f"{tool.stem}.yaml"
    shown = [
        f"## {tool.stem}",
        " ".join(summary.split()),
        f"```text\n{_dedented(usage)}\n```",
        f"```bash\n{_commented(examples)}\n```",
        _table(keys_of(path)),
    ]
    if tool.stem == "train":
        shown.append("Groups and their keys: [configuration keys](configuration-keys.md).")
    return "\n\n".join(part for part in shown if part)


def _dedented(usage: str) -> str:
    return "\n".join(line.strip() for line in usage.splitlines())


def _commented(examples: str) -> str:
    """`command    what it does` -> the description as a comment above the command.

    Options on a line of their own follow the command before them.
    """
    lines: list[str] = []
    command = ""
    for line in examples.splitlines():
        typed, *described = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        if typed.startswith("python "):
            command = typed
        else:
            typed = f"{command} {typed}"
        lines += [f"# {described[0]}" for _ in described]
        lines.append(typed)
    return "\n".join(lines)


def _group(group: Path) -> str:
    parts = [f"## {group.name}"]
    if group.name == "data":
        loader = CONF / "loader" / "default.yaml"
        parts += ["### All data", _comment(loader), _table(keys_of(loader))]
    if group.name == "method":
        parts.append("For `tools/search.py` only.")
    files = sorted(
        group.rglob("*.yaml"), key=lambda path: (path.parent, not path.stem.startswith("_"), path.stem)
    )
    for path in files:
        task = path.parent.name if path.parent != group else ""
        of_task = f" ({TASKS.get(task, task)})" if task else ""
        common = path.stem.startswith("_")
        title = f"All data of {TASKS[task]}" if common else f"`{group.name}={path.stem}`{of_task}"
        parts += [f"### {title}", _comment(path), _table(keys_of(path))]
    return "\n\n".join(part for part in parts if part)


def _experiments() -> str:
    lines = [
        "## experiment",
        "One file per row of a paper table, and some recipes; only what differs from the defaults.",
    ]
    for task, title in TASKS.items():
        names = sorted(path.stem for path in (CONF / "experiment" / task).rglob("*.yaml"))
        lines.append(f"**{title.capitalize()}:** " + ", ".join(f"`{task}/{name}`" for name in names))
    return "\n\n".join(lines)


def _comment(path: Path) -> str:
    """The comment at the top of a YAML file, as a paragraph."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def keys_of(path: Path) -> list[tuple[str, str, str]]:
    """(key, value, comment) of each key that a YAML file sets; in a list, keys have its index: `a.0.key`."""
    rows = []
    parents: list[tuple[int, str]] = []  # indentation and dotted key
    last: dict[str, int] = {}  # position of the last entry of each list
    for indent, begins, key, value, comment in _lines(path):
        while parents and parents[-1][0] >= indent:
            parents.pop()
        outer = parents[-1][1] if parents else ""
        if begins:
            last[outer] = last.get(outer, -1) + 1
        position = [str(last[outer])] if outer in last else []
        dotted = ".".join([part for part in (outer, *position, key) if part])
        if dotted == "defaults" or dotted.startswith("defaults."):
            parents.append((indent, dotted))
            continue
        if value or comment:
            rows.append((dotted, value, comment))
        if not value:
            parents.append((indent, dotted))
    return [row for row in rows if not (path.parent == CONF and row[0].endswith("_target_"))]


def _lines(path: Path) -> Iterator[tuple[int, bool, str, str, str]]:
    """(indentation, whether it begins an entry of a list, key, value, comment) of each line with a key."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\s*(- )?)([\w.]+):(?:\s+([^#\s].*?))?\s*(?:#\s*(.*))?$", line):
            yield len(match[1]), bool(match[2]), match[3], match[4] or "", match[5] or ""


def _table(rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    lines = ["| key | default | |", "|---|---|---|"]
    for key, value, comment in rows:
        shown = f"`{value}`" if value else ""
        lines.append(f"| `{key}` | {shown} | {_escaped(comment)} |".replace("``", ""))
    return "\n".join(lines)


def _escaped(comment: str) -> str:
    """Text for a table cell, with column marks and `<placeholders>` escaped."""
    return re.sub(r"[^\s,;(]*<[^<>]+>[^\s,;)]*", lambda match: f"`{match[0]}`", comment).replace("|", "\\|")


if __name__ == "__main__":
    COMMAND_LINE.write_text(command_line(), encoding="utf-8")
    CONFIGURATION_KEYS.write_text(configuration_keys(), encoding="utf-8")
    MODELS.write_text(models(), encoding="utf-8")
