"""Labels that the network contradicts: what a task reports, and the files and report section for the user.

The idea is that of confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating
Uncertainty in Dataset Labels", JAIR 70, 2021): a prediction counts as confident if its probability is at
least the mean probability that the network gives to labels of that class, so that rare and difficult
classes are not drowned by easy ones.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.contracts import Image
from engine.data.exclude import read_excluded, write_excluded
from engine.errors import UserError
from engine.html.page import Page
from engine.io.files import write_json
from engine.sample_images import drawn

SUSPICIOUS, EXCLUDE = "suspicious.json", "exclude.json"
_PLACES_SHOWN = 4
_INTRO = (
    "Labels that a confident prediction contradicts, the strongest contradiction first. Look at each: if the "
    "label is wrong, correct it or leave the image out; if it is right, the network has yet to learn it."
)
_TRAINED_ON = " The network was trained on these labels, so it may have memorized some of the wrong ones."


class Place(NamedTuple):
    """A contradicted label: what contradicts it, how strongly (0..1), and where.

    box: (left, top, right, bottom) in pixels of the image; None: the whole image.
    """

    text: str
    score: float
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """An image with contradicted labels.

    Attributes:
        name, index: the sample in its dataset.
        score: how strongly its labels are contradicted; images are ranked by it.
        places: the contradicted labels, strongest first.
        draw: draws the image with its label, its prediction and the places.
    """

    name: str
    index: int
    score: float
    places: tuple[Place, ...]
    draw: Callable[[], Image]

    def to_json(self) -> dict[str, Any]:
        """The entry in suspicious.json."""
        places = [{"text": p.text, "score": round(p.score, 4), "box_xyxy": p.box} for p in self.places]
        return {"name": self.name, "score": round(self.score, 4), "places": places}


def ranked(suspicions: Sequence[Suspicion], count: int) -> list[Suspicion]:
    """The `count` images with the highest scores; of equal ones, those with more in their places first."""
    order = sorted(suspicions, key=lambda s: (-s.score, -sum(p.score for p in s.places), s.index))
    return order[:count]


def class_thresholds(
    sums: NDArray[np.float64], counts: NDArray[np.integer], *, least: float = 0.5
) -> NDArray[np.float64]:
    """The probability from which a prediction of each class is confident: the mean probability of its labels.

    sums, counts [C]: sum of the probabilities that labels of a class were given, and their number; a class
    without labels has no confident predictions (infinity). least: the lowest threshold, because the mean
    probabilities of a network that has learned little are low.
    """
    means = np.divide(sums, counts, out=np.full(len(sums), np.inf), where=counts > 0)
    thresholds: NDArray[np.float64] = np.maximum(means, least)
    return thresholds


def write_suspicious(out: Path, split: str, suspicions: Sequence[Suspicion]) -> None:
    """Write suspicious.json, the ranked list, and exclude.json, for `data.exclude`, into a folder.

    An exclude.json that was edited is kept under another name.

    Raises: UserError if a file cannot be written.
    """
    _keep_edited(out)
    write_json(out / SUSPICIOUS, {"split": split, "images": [each.to_json() for each in suspicions]})
    write_excluded(out / EXCLUDE, {split: {each.name: each.places[0].text for each in suspicions}})


def _keep_edited(folder: Path) -> None:
    """Rename exclude.json if its samples are not those of suspicious.json, with which it was written."""
    path = folder / EXCLUDE
    if not path.exists():
        return
    try:
        listed = json.loads((folder / SUSPICIOUS).read_text(encoding="utf-8"))
        whole = {listed["split"]: [image["name"] for image in listed["images"]]}
        edited = {split: list(names) for split, names in read_excluded(path).items()}
        if edited in (whole, {}):
            return
    except (UserError, OSError, ValueError, KeyError, TypeError):
        pass  # damaged by an edit, or from elsewhere: kept as well
    names = (path.with_name(f"{path.stem}_{number}.json") for number in itertools.count(1))
    kept = path.replace(next(name for name in names if not name.exists()))
    print(f"{path}: was edited, so it is kept as {kept.name}")


def add_suspicious(page: Page, out: Path, split: str, suspicions: Sequence[Suspicion]) -> None:
    """Add the section with the ranked list, its drawings, and what to do with exclude.json."""
    page.section("Suspicious labels", _INTRO + (_TRAINED_ON if split == "train" else ""))
    if not suspicions:
        page.text("No label is contradicted by a confident prediction.")
        return
    page.images((each.draw(), _caption(rank, each)) for rank, each in enumerate(drawn(suspicions), start=1))
    page.text(f"{EXCLUDE} lists these images. Delete those with correct labels, then train without the rest:")
    page.code(f"python tools/train.py ... data.exclude={out / EXCLUDE}")


def _caption(rank: int, suspicion: Suspicion) -> str:
    texts = [place.text for place in suspicion.places[:_PLACES_SHOWN]]
    if len(suspicion.places) > _PLACES_SHOWN:
        texts.append(f"and {len(suspicion.places) - _PLACES_SHOWN} more")
    return f"{rank}.\N{NO-BREAK SPACE}{suspicion.name} ({suspicion.score:.2f}): {'; '.join(texts)}"
