"""Reads YOLO's label files: rows of boxes, polygons, boxes with keypoints, and rows saved by a tracker.

The length of a row does not say what it is: `0 .5 .5 .2 .2 .45 .45 .55 .55` is a polygon of four points, or
a box with two keypoints. The rows of a split decide together.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from det.data.cleaning import AnnotationIssues
from engine.errors import FileErrors, UserError
from engine.io.text import read_text

_SMALLEST_FRACTION, _LARGEST_FRACTION = -1.0, 2.0
"""Numbers beyond these are not rounding errors at the border: they are pixels, not fractions."""


_TOLERANCE = 0.02  # of the image, by which a box may extend over it, and a keypoint over its box


_KEYPOINT_SHARE = 0.25
"""Rows that look like boxes with keypoints, among all long rows. Of polygons, almost none does; of keypoints,
those whose width and height happen to lie near their points do not."""


_SHIFTED_SHARE = 0.25
"""Rows of five numbers whose first four are no box in the image, although the last four are. In rows with a
score or an id after the box, hardly any."""


_FEWEST_POINTS = 3
"""Keypoints with a score or an id after them are told from a polygon only if there are as many; of polygons
with four corners, some would look like one or two."""


_OTHER_NUMBERS = (
    "if the others are keypoints, add kpt_shape to {yaml}; if the last is an angle, write the four "
    "corners instead; if it is a polygon's confidence, delete it"
)


_FIRST_ID = "; if the first is an id, delete it"


_NO_POINT = ((0, 0), (-1, -1))  # a keypoint that is not in the image


BOX, POLYGON, KEYPOINTS, TRACKED, LIKE_KEYPOINTS, LIKE_TRACKED = range(6)


class LabelRows(NamedTuple):
    """M rows of a label file.

    Attributes:
        labels: int64 [M].
        boxes: float64 [M, 4], xyxy as fractions; around the points, if the row is a polygon.
        heads: float64 [M, 4], the same if the first four numbers are a box and the others something else.
        kinds, lengths, lines: int64 [M], what the row is or may be, how many numbers it has after the class,
            and its number in the file.
        fifths: float64 [M], the number after the box, NaN if there is none.
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    heads: NDArray[np.float64]
    kinds: NDArray[np.int64]
    lengths: NDArray[np.int64]
    lines: NDArray[np.int64]
    fifths: NDArray[np.float64]


class _Row(NamedTuple):
    label: int
    box: Sequence[float]
    head: Sequence[float]
    kind: int
    length: int
    fifth: float


@dataclass(frozen=True, kw_only=True)
class LabelReader:
    """Reads the label files of a dataset.

    Attributes:
        num_classes: of the dataset.
        keypoints: (number of keypoints, numbers per keypoint) in each row; None if there are none.
        polygons: whether the yaml file says that there are none.
        file: the file with the names of the classes, for messages.
    """

    num_classes: int
    keypoints: tuple[int, int] | None = None
    polygons: bool = False
    file: Path = Path("data.yaml")

    @property
    def yaml(self) -> str:
        """The file where kpt_shape belongs, for messages."""
        return str(self.file) if self.file.suffix in (".yaml", ".yml") else "a data.yaml"

    @classmethod
    def from_yaml(cls, file: Path, content: Mapping[str, Any], num_classes: int) -> "LabelReader":
        """From the content of `file`. Raises: UserError if its kpt_shape is wrong."""
        shape = content.get("kpt_shape")
        reader = cls(num_classes=num_classes, polygons="kpt_shape" in content, file=file)
        if shape is None or shape == []:
            return reader
        whole = isinstance(shape, list) and len(shape) == 2 and all(type(size) is int for size in shape)
        if not whole or shape[0] < 1 or shape[1] not in (2, 3):
            raise UserError(
                f"{file}: kpt_shape: must be [number of keypoints, 2 or 3 numbers per keypoint], or [] if "
                f"there are none, got {shape!r:.60}"
            )
        return replace(reader, keypoints=(shape[0], shape[1]))

    def read(self, paths: Sequence[str], issues: AnnotationIssues) -> list[LabelRows]:
        """The rows of all label files of a split; counts those of which only the box is used.

        Raises:
            UserError: naming the first line that is wrong, and the files with others.
        """
        files, errors = list[LabelRows](), FileErrors()
        for path in paths:
            files.append(read_rows(path, self, errors=errors))
        errors.check()
        issues.refuse(errors.files)
        return self.decide(files, paths, issues)

    def decide(
        self, files: Sequence[LabelRows], paths: Sequence[str], issues: AnnotationIssues
    ) -> list[LabelRows]:
        """The rows of all label files of a split, decided; counts those of which only the box is used.

        Raises:
            UserError: if polygons cannot be told from boxes with keypoints.
        """
        decided = decide(files, paths, yaml=self.yaml, polygons=self.polygons)
        for kind, what in (
            (KEYPOINTS, "with keypoints: only the box is used"),
            (
                TRACKED,
                "with a score or a track id after the box: only the box is used (angles are not read)",
            ),
        ):
            for path, file in zip(paths, decided, strict=True):
                issues.add("row", what, [os.path.basename(path)] * int((file.kinds == kind).sum()))
        return decided


def read_rows(path: str | Path, reader: LabelReader, *, errors: FileErrors | None = None) -> LabelRows:
    """Read a label file.

    errors: receives the errors, and the rows are those without one; if it is None, the first is raised.

    A row is `class cx cy w h`; a polygon `class x1 y1 x2 y2 x3 y3 ...`, which becomes its bounding box; a box
    with `keypoints`, of so many points and numbers per point; or a box with a score, a track id or both.

    Raises:
        UserError: naming the file and the line.
    """
    path = Path(path)
    rows, lines = [], []
    for number, line in enumerate(_text(path, errors).splitlines(), start=1):
        if values := line.split():
            try:
                rows.append(_row(values, reader, f"{path}: line {number}"))
            except UserError as error:
                if errors is None:
                    raise
                errors.add(path, error)
            else:
                lines.append(number)
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    labels, boxes, heads, kinds, lengths, fifths = columns
    return LabelRows(
        np.array(labels, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(heads, np.float64).reshape(-1, 4),
        np.array(kinds, np.int64),
        np.array(lengths, np.int64),
        np.array(lines, np.int64),
        np.array(fifths, np.float64),
    )


def _text(path: Path, errors: FileErrors | None) -> str:
    try:
        return read_text(path)
    except OSError as error:
        problem = UserError(f"{path}: cannot be read ({error.strerror}); check the path")
    except UnicodeDecodeError:
        problem = UserError(f"{path}: not a text file; export the labels again")
    if errors is None:
        raise problem
    errors.add(path, problem)
    return ""


def decide(files: Sequence[LabelRows], names: Sequence[str], *, yaml: str, polygons: bool) -> list[LabelRows]:
    """The rows of all `files` of a split, with the right boxes and without undecided kinds.

    Args:
        names: of the files, for messages.
        yaml: the file where kpt_shape belongs, for messages.
        polygons: whether it says that there are no keypoints.

    Raises:
        UserError: if polygons cannot be told from boxes with keypoints, or the number before or after a box
            is no part of it and, after it, neither a score nor a track id.
    """
    _check_firsts(files, names)
    _check_fifths(files, names)
    kinds = np.concatenate([file.kinds for file in files]) if files else np.empty(0, np.int64)
    lengths = np.concatenate([file.lengths for file in files]) if files else kinds
    sevens = kinds[lengths == 6]
    tracked = len(sevens) > 0 and bool(((sevens == LIKE_TRACKED) | (sevens == TRACKED)).all())
    long = kinds[np.isin(kinds, (POLYGON, LIKE_KEYPOINTS, LIKE_TRACKED)) & ~(tracked & (lengths == 6))]
    alike = long == LIKE_KEYPOINTS
    same_length = len(np.unique(lengths[kinds == LIKE_KEYPOINTS])) == 1
    if not polygons and same_length and alike.mean() >= _KEYPOINT_SHARE:
        index = next(i for i, file in enumerate(files) if (file.kinds == LIKE_KEYPOINTS).any())
        row = int(np.flatnonzero(files[index].kinds == LIKE_KEYPOINTS)[0])
        points = int(files[index].lengths[row]) - 4
        example = f"[{points // 2}, 2]" if points % 2 == 0 else f"[{points // 3}, 3]"
        raise UserError(
            f"{names[index]}: line {files[index].lines[row]}: may be a polygon, or a box with keypoints; "
            f"add kpt_shape: {example} (number of keypoints, numbers per keypoint) to {yaml}, or kpt_shape: "
            "[] if these are polygons"
        )
    return [_decided(file, tracked) for file in files]


def _check_firsts(files: Sequence[LabelRows], names: Sequence[str]) -> None:
    """Refuse rows of five numbers whose first four often are no boxes, but whose last four are in all rows:
    the first is a score or an id.

    Raises: UserError.
    """
    if not files:
        return
    chosen = [file.lengths == 5 for file in files]
    heads = np.concatenate([file.heads[rows] for file, rows in zip(files, chosen, strict=True)])
    fifths = np.concatenate([file.fifths[rows] for file, rows in zip(files, chosen, strict=True)])
    centers, sides = (heads[:, :2] + heads[:, 2:]) / 2, heads[:, 2:] - heads[:, :2]
    last_four = np.column_stack([centers[:, 1], sides, fifths])
    fit = [_is_inside(numbers) for numbers in np.hstack([centers, sides]).tolist()]
    if np.mean(fit or [True]) > 1 - _SHIFTED_SHARE or not all(map(_is_inside, last_four.tolist())):
        return
    index = next(i for i, rows in enumerate(chosen) if rows.any())
    row = int(np.flatnonzero(chosen[index])[0])
    raise UserError(
        f"{names[index]}: line {files[index].lines[row]}: the first four numbers after the class are a box "
        f"in {sum(fit)} of {len(fit)} rows, the last four in all; if the first is a score or an id, delete it"
    )


def _check_fifths(files: Sequence[LabelRows], names: Sequence[str]) -> None:
    """Refuse rows of five numbers whose last is neither a score nor a track id, such as the angle of a box.

    Either all are scores (0..1), or all are ids, each of which occurs once in its file.

    Raises: UserError.
    """
    scored = any((file.fifths[file.lengths == 5] % 1 != 0).any() for file in files)
    for file, name in zip(files, names, strict=True):
        above = np.flatnonzero((file.lengths == 5) & (file.fifths > 1))
        first = np.unique(file.fifths[above], return_index=True)[1]
        wrong = above if scored else np.delete(above, first)
        if len(wrong):
            why = "other rows have fractions there" if scored else "another row of the file has the same"
            raise UserError(
                f"{name}: line {file.lines[wrong[0]]}: the number after the box, {file.fifths[wrong[0]]:g}, "
                f"is neither a score (0..1) nor a track id ({why}); if it is an angle, write the four "
                "corners instead of the box; otherwise delete it"
            )


def _decided(file: LabelRows, tracked: bool) -> LabelRows:
    kinds = np.where((file.kinds == LIKE_TRACKED) & tracked, TRACKED, file.kinds)
    kinds = np.where(np.isin(kinds, (LIKE_KEYPOINTS, LIKE_TRACKED)), POLYGON, kinds)
    boxes = np.where((kinds == TRACKED)[:, None], file.heads, file.boxes)
    return file._replace(boxes=boxes, kinds=kinds)


def _row(values: list[str], reader: LabelReader, where: str) -> _Row:
    try:
        label, *numbers = map(float, values)
    except ValueError:
        raise UserError(
            f"{where}: must be numbers separated by spaces, got {' '.join(values)!r:.60}"
        ) from None
    if not (0 <= label < reader.num_classes and label == int(label)):
        raise UserError(
            f"{where}: class {values[0]:.20} is not one of 0..{reader.num_classes - 1}; correct it, or add "
            f"its name to {reader.file}"
        )
    kind = _kind(numbers, reader, where)
    # Not finite numbers pass: such boxes are left out and counted with those of other formats.
    beyond = [number < _SMALLEST_FRACTION or number > _LARGEST_FRACTION for number in numbers]
    if any(beyond[:4]):
        raise UserError(
            f"{where}: must be fractions of the image in 0..1, got {' '.join(values[1:5])!r:.60}; divide "
            f"pixels by its width and height, percentages by 100{_FIRST_ID if len(numbers) == 5 else ''}"
        )
    if kind in (POLYGON, LIKE_KEYPOINTS) and any(beyond):
        raise UserError(
            f"{where}: must be fractions of the image in 0..1, but {values[1 + beyond.index(True)]:.20} is "
            f"after {' '.join(values[1:5])!r:.60}; {_OTHER_NUMBERS.format(yaml=reader.yaml)}"
        )
    x, y, width, height = numbers[:4]
    head = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    xs, ys = numbers[::2], numbers[1::2]
    around = kind in (POLYGON, LIKE_KEYPOINTS, LIKE_TRACKED)
    box = (min(xs), min(ys), max(xs), max(ys)) if around else head
    return _Row(int(label), box, head, kind, len(numbers), numbers[4] if numbers[4:] else math.nan)


def _kind(numbers: list[float], reader: LabelReader, where: str) -> int:
    count = len(numbers)
    if count == 4:
        return BOX
    if reader.keypoints is not None:
        points, size = reader.keypoints
        rest = numbers[4 + points * size :]
        if count == 4 + points * size or _is_of_tracker(rest):
            return KEYPOINTS
        raise UserError(
            f"{where}: must be class cx cy w h and {points} keypoints of {size} numbers (kpt_shape), got "
            f"{count + 1} values; correct kpt_shape or the row"
        )
    if count == 5 and (0 <= numbers[4] <= 1 or _is_id(numbers[4])):
        return TRACKED
    if count == 6 and 0 <= numbers[4] <= 1 and _is_id(numbers[5]) and _is_inside(numbers[:4]):
        return LIKE_TRACKED if numbers[5] < _LARGEST_FRACTION else TRACKED
    if count < 6 or count % 2:
        raise UserError(
            f"{where}: must be class cx cy w h, or a class and the points of a polygon, got {count + 1} "
            f"values; {_OTHER_NUMBERS.format(yaml=reader.yaml)}"
        )
    tails = [end for end in (count - 1, count - 2) if _is_of_tracker(numbers[end:])]
    alike = any(_may_be_keypoints(numbers, size) for size in (2, 3)) or any(
        end >= 4 + _FEWEST_POINTS * size and _may_be_keypoints(numbers[:end], size)
        for end in tails
        for size in (2, 3)
    )
    return LIKE_KEYPOINTS if alike else POLYGON


def _is_of_tracker(numbers: Sequence[float]) -> bool:
    """Whether numbers after a box are a score, an id, or a score and an id."""
    *score, last = numbers or [-1.0]
    return (
        len(score) < 2
        and all(0 <= number <= 1 for number in score)
        and (_is_id(last) or (not score and 0 <= last <= 1))
    )


def _is_id(number: float) -> bool:
    return 0 <= number < 1e9 and number == int(number)


def _is_inside(head: Sequence[float]) -> bool:
    """Whether cx, cy, w, h is a box in the image."""
    x, y, width, height = head
    low, high = min(x - width / 2, y - height / 2), max(x + width / 2, y + height / 2)
    return width > 0 and height > 0 and low >= -_TOLERANCE and high <= 1 + _TOLERANCE


def _may_be_keypoints(numbers: list[float], size: int) -> bool:
    """Whether the points after a box lie in it, but (w, h) far from them, unlike a polygon's second one."""
    x, y, width, height = numbers[:4]
    rest = numbers[4:]
    if len(rest) % size or not _is_inside(numbers[:4]):
        return False
    if size == 3 and not all(0 <= number <= 1 or number == 2 for number in rest[2::3]):
        return False  # visibility: 0, 1 or 2, or the probability that a network predicts
    pairs = zip(rest[::size], rest[1::size], strict=True)
    points = [pair for pair in pairs if pair not in _NO_POINT]
    reach = (width / 2 + _TOLERANCE, height / 2 + _TOLERANCE)
    if not points or any(abs(a - x) > reach[0] or abs(b - y) > reach[1] for a, b in points):
        return False
    sides = [[x, *(a for a, _ in points)], [y, *(b for _, b in points)]]
    return any(
        side < 2 * min(values) - max(values) or side > 2 * max(values) - min(values)
        for side, values in zip((width, height), sides, strict=True)
    )
