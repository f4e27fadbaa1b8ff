"""Predict with the model in this folder.

    python run.py photo.jpg [more images]      one line per box or class
    python run.py photo.jpg --json             the same as an entry of predict's summary.json
    python run.py street.jpg --out masks       segmentation: also write label maps, as PNG files of class ids
    python run.py --check                      predict the golden images and compare with the expected answers

Needs Python 3.10 or newer with NumPy, Pillow and the model's runtime (requirements.txt), neither PyTorch nor
the project that made it.

Apache-2.0; from mobilenet-dense, deploy/device/run.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f"run.py needs Python 3.10 or newer; this is {sys.version.split()[0]}")

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

try:
    import numpy as np
    from decode import decode  # type: ignore[import-not-found]
    from image import UnsupportedImageError, network_input, read  # type: ignore[import-not-found]
    from PIL import Image
    from runtime import load  # type: ignore[import-not-found]
except ImportError as error:
    sys.exit(f"{error}; run: pip install -r {FOLDER / 'requirements.txt'}")

try:
    ABOUT = json.loads((FOLDER / "preprocess.json").read_text(encoding="utf-8"))
except (OSError, ValueError) as error:
    sys.exit(f"{FOLDER / 'preprocess.json'}: cannot be read ({error}); copy the whole kit")
CLASSES = ABOUT["classes"]["classes"]
MOST = 5
"""Number of classes that a classifier's answer lists."""
SAME_SHARE, SAME_SCORE, SAME_SIDE = 0.99, 0.02, 2.0
"""`--check`: share of equal pixels or boxes, and differences of a score and of a box's side in pixels."""


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):  # consoles can lack letters of the classes' names
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = _options(arguments)
    try:
        model = load(FOLDER / ABOUT["file"], threads=options.threads)
    except Exception as error:  # each runtime has its own
        print(f"{FOLDER / ABOUT['file']}: cannot be loaded ({_line(error)})", file=sys.stderr)
        return 1
    try:
        return check(model) if options.check else predict_files(model, options)
    except OSError as error:  # a golden image is missing, or a label map cannot be written
        print(_line(error), file=sys.stderr)
        return 1


def predict_files(model: Any, options: argparse.Namespace) -> int:
    """Print the answers for the images; returns the exit status: 1 if one of them cannot be read."""
    entries: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for path in options.images:
        try:
            prediction = predict(model, read(path, ABOUT["preprocessing"]))
        except (OSError, UnsupportedImageError) as error:
            reason = _line(error)
            if isinstance(error, IsADirectoryError):
                reason = f"is a folder; pass its images, such as {path}/*.jpg"
            failed.append({"file": path, "error": reason if path in reason else f"{path}: {reason}"})
            print(failed[-1]["error"], file=sys.stderr)
            continue
        entries.append({"file": path, **answer(prediction, options.threshold)})
        if options.out:
            id_mask(prediction).save(options.out / mask_name(path))
        if not options.json:
            start = f"{path}: " if len(options.images) > 1 else ""
            print("".join(f"{start}{line}\n" for line in lines(prediction, options.threshold)), end="")
    if options.json:
        print(json.dumps({"files": entries, "failed": failed}, indent=2))
    return int(bool(failed))


def _line(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def predict(model: Any, image: Any) -> Any:
    """RGB uint8 [H, W, 3] -> (boxes, scores, labels), a label map [H, W], or probabilities [K]."""
    images = network_input(image, ABOUT)
    outputs = dict(zip(ABOUT["outputs"], model(images), strict=True))
    return decode(outputs, ABOUT, image.shape[:2])


def answer(prediction: Any, threshold: float) -> dict[str, Any]:
    """The prediction as predict's summary.json has it."""
    if ABOUT["task"] == "det":
        return {
            "detections": [
                {
                    "class": CLASSES[label]["name"],
                    "category_id": CLASSES[label]["id"],
                    "score": round(float(score), 4),
                    "box_xyxy": [round(float(side), 2) for side in box],
                }
                for box, score, label in zip(*prediction, strict=True)
                if score >= threshold
            ]
        }
    if ABOUT["task"] == "seg":
        counts = np.bincount(prediction.ravel(), minlength=len(CLASSES))
        order = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
        shares = {CLASSES[index]["name"]: round(float(counts[index]) / prediction.size, 6) for index in order}
        return {"size": list(prediction.shape), "classes": shares}
    best = np.argsort(-prediction, kind="stable")[:MOST]
    return {
        "classes": [
            {
                "name": CLASSES[k]["name"],
                "id": CLASSES[k]["id"],
                "probability": round(float(prediction[k]), 6),
            }
            for k in best
        ]
    }


def lines(prediction: Any, threshold: float) -> list[str]:
    """Class, score, left, top, right, bottom of each box; pixels of each class; or the likeliest classes."""
    if ABOUT["task"] == "det":
        return [
            " ".join([CLASSES[label]["name"], f"{score:.4f}", *(f"{side:.2f}" for side in box)])
            for box, score, label in zip(*prediction, strict=True)
            if score >= threshold
        ]
    if ABOUT["task"] == "seg":
        counts = np.bincount(prediction.ravel(), minlength=len(CLASSES))
        return [f"{entry['name']} {count}" for entry, count in zip(CLASSES, counts, strict=True)]
    best = np.argsort(-prediction, kind="stable")[:MOST]
    return [f"{CLASSES[k]['name']} {prediction[k]:.6f}" for k in best]


def mask_name(path: str) -> str:
    return f"{Path(path).stem}.png"


def id_mask(labels: Any) -> Image.Image:
    """Class indices [H, W] -> an image of the dataset's ids, in the classes' colors if ids are below 256."""
    ids = np.array([entry["id"] for entry in CLASSES])
    if ids.max() > 255:
        return Image.fromarray(ids.astype(np.uint16)[labels])
    mask = Image.fromarray(ids.astype(np.uint8)[labels])
    palette = np.zeros((256, 3), np.uint8)
    palette[ids] = [entry["color"] for entry in CLASSES]
    mask.putpalette(palette.ravel().tolist())
    return mask


def check(model: Any) -> int:
    """Compare the answers for the golden images with those of predict; returns the exit status."""
    golden = json.loads((FOLDER / "golden/expected.json").read_text(encoding="utf-8"))
    agreeing = 0
    for expected in golden["files"]:
        prediction = predict(model, read(FOLDER / "golden" / expected["file"], ABOUT["preprocessing"]))
        share = agreement(prediction, expected)
        agreeing += share >= SAME_SHARE
        print(f"{expected['file']}: {100 * share:.2f}% as expected")
    print(f"{agreeing} of {len(golden['files'])} golden images agree")
    return 0 if agreeing == len(golden["files"]) else 1


def agreement(prediction: Any, expected: dict[str, Any]) -> float:
    """The share of equal pixels, or of boxes or classes with nearly the same score, in 0..1."""
    if ABOUT["task"] == "seg":
        mask = np.asarray(Image.open(FOLDER / "golden" / expected["mask"]))
        return float((np.array([entry["id"] for entry in CLASSES])[prediction] == mask).mean())
    found = answer(prediction, ABOUT["decoding"].get("draw_threshold", 0.0))
    if ABOUT["task"] == "det":
        ours, theirs = list(found["detections"]), expected["detections"]
        pairs = [_take_same(ours, box) for box in theirs]
        total = max(len(theirs), len(found["detections"]))
        return float(sum(pairs) / total) if total else 1.0
    known = {entry["name"]: entry["probability"] for entry in found["classes"]}
    near = [
        abs(known.get(entry["name"], 0.0) - entry["probability"]) <= SAME_SCORE
        for entry in expected["classes"]
    ]
    return float(sum(near) / len(near))


def _take_same(boxes: list[Any], expected: dict[str, Any]) -> bool:
    """Whether the same box is in `boxes`, which then loses it."""
    for place, box in enumerate(boxes):
        sides = zip(box["box_xyxy"], expected["box_xyxy"], strict=True)
        if (
            box["class"] == expected["class"]
            and abs(box["score"] - expected["score"]) <= SAME_SCORE
            and all(abs(side - other) <= SAME_SIDE for side, other in sides)
        ):
            del boxes[place]
            return True
    return False


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("images", nargs="*", help="image files")
    parser.add_argument("--json", action="store_true", help="print JSON, as predict's summary.json")
    parser.add_argument("--out", type=Path, help="segmentation: folder for label maps of class ids")
    parser.add_argument("--check", action="store_true", help="predict the golden images and compare")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime")
    parser.add_argument(
        "--threshold",
        type=float,
        default=ABOUT["decoding"].get("draw_threshold", 0.0),
        help="detection: lowest score of a box",
    )
    options = parser.parse_args(arguments)
    if not options.images and not options.check:
        parser.error("name an image, or use --check")
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.out:
        if ABOUT["task"] != "seg":
            parser.error("--out is for label maps, which only segmentation has")
        _check_mask_names(parser, options.images)
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--out {options.out}: cannot be created ({error.strerror})")
    return options


def _check_mask_names(parser: argparse.ArgumentParser, paths: Sequence[str]) -> None:
    """Refuse images whose label maps would have the same name."""
    known: dict[str, str] = {}
    for path in paths:
        other = known.setdefault(mask_name(path), path)
        if Path(other).resolve() != Path(path).resolve():
            parser.error(f"--out: {other} and {path} would both become {mask_name(path)}; use two folders")


if __name__ == "__main__":
    sys.exit(main())
