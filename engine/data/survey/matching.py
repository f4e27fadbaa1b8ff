"""How the tasks look for layouts: each format in turn, with what a survey of the folder has found."""

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

from engine.contracts import Layout
from engine.data.coco_layout import find_layout
from engine.data.survey.files import Survey, survey
from engine.data.survey.kinds import Kind, combined, kind_of_json, kind_of_rows, kind_of_xml
from engine.errors import UserError, some
from engine.io.text import encoding

_CLASS_LISTS = ("obj.names", "classes.txt", "data/obj.names", "labels/classes.txt")
"""Where Darknet, CVAT and Label Studio list the classes of YOLO's label files."""


class Content:
    """The survey of a folder, and the kinds of its annotation files: format -> kind."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.survey: Survey = survey(root)

    @cached_property
    def json(self) -> dict[str, Kind]:
        return combined(map(kind_of_json, self.survey.files(".json")))

    @cached_property
    def xml(self) -> dict[str, Kind]:
        return combined(map(kind_of_xml, self.survey.files(".xml")))

    @cached_property
    def rows(self) -> Kind | None:
        return combined(map(kind_of_rows, self.survey.files(".txt"))).get("yolo")

    @cached_property
    def yolo(self) -> Path | None:
        """What lists the classes of a YOLO dataset: the folder, the only YAML file of another name in it, or
        None if there is nothing."""
        if (self.root / "data.yaml").is_file():
            return self.root
        named = [path for path in sorted(self.root.glob("*.y*ml")) if has_key(path, "names")]
        if len(named) == 1:
            return named[0]
        listed = any((self.root / name).is_file() for name in _CLASS_LISTS)
        return self.root if listed and self.rows is not None and not named else None

    def coco(self) -> tuple[str, ...]:
        """What to set so that COCO's reader has images to train on: the root or, if there is only a JSON file
        for val or test, that file as train, of which the reader then uses a fifth as val.

        Raises: UserError if a file or folder is missing.
        """
        found = find_layout(str(self.root), dict.fromkeys(("train", "val", "test")), unannotated=["test"])
        if "train" in found.pairs:
            return (f"data.root={self.root}",)
        pairs = [(folder, file) for folder, file in found.pairs.values() if file is not None]
        if len(pairs) != 1:
            raise UserError(
                f"{self.root}: JSON files for {some(list(found.pairs))}, but none for train; add it"
            )
        folder, file = pairs[0]
        return f"data.train.images={folder}", f"data.train.annotations={file}"

    def require_images(self, what: str) -> None:
        """Raise a UserError if there are no images, but `what`, which describes some."""
        if not self.survey.num_images:
            raise UserError(f"{self.root}: {what}, but no images; put them in {self.root / 'images'}")

    def converted(self, name: str) -> str:
        """A new folder next to the root, for `tools/convert.py`."""
        root = self.root.resolve() if self.root.name in ("", "..") else self.root
        folder = root.with_name(f"{root.name}_{name}")
        numbers = (folder.with_name(f"{folder.name}_{number}") for number in range(2, 1000))
        return str(folder if not folder.exists() else next(n for n in numbers if not n.exists()))


_NO_TRAIN = 50  # subtracted from the rank of a dataset that only has images to evaluate on


def in_place(
    task: str,
    content: Content,
    data: str,
    title: str,
    rank: int,
    *,
    overrides: tuple[str, ...] = (),
    train: bool = True,
) -> Layout:
    """A layout that is read where it is. overrides: by default only `data.root=`. train: whether there are
    images to train on."""
    return Layout(
        task=task,
        data=data,
        title=title if train else f"{title}; no images for training",
        overrides=overrides or (f"data.root={content.root}",),
        rank=rank if train else rank - _NO_TRAIN,
    )


def has_key(path: Path, key: str) -> bool:
    """Whether a YAML file has this key at its top level."""
    try:
        with path.open("rb") as file:
            start = file.read(100_000)
    except OSError:
        return False
    text = start.decode(encoding(start), errors="replace")
    return bool(re.search(rf"^{key}\s*:", text, re.MULTILINE))


def find_layouts(root: Path, finders: Iterable[Callable[[Content], Iterable[Layout]]]) -> list[Layout]:
    """The layouts that the finders see in a folder.

    A finder raises a UserError if the folder is almost what it looks for.

    Raises: UserError, the first of those, if no layout is found; also if the folder cannot be read.
    """
    content = Content(root)
    found: list[Layout] = []
    reasons: list[UserError] = []
    for finder in finders:
        try:
            found += finder(content)
        except UserError as error:
            reasons.append(error)
        except OSError as error:
            reasons.append(UserError(f"{error.filename or root}: cannot be read ({error.strerror})"))
    if not found and reasons:
        raise reasons[0]
    return found
