"""Tiny datasets without faults, for tests that plant one, and the check of a dataset as the tool runs it."""

from functools import partial

import cv2
import numpy as np
from PIL import Image

from doctor.check.cache import FactCache
from doctor.check.dataset_check import check_dataset
from engine.config.choices.automatic import with_defaults
from engine.config.compose import compose_config
from engine.config.instantiate import task_info
from engine.config.training import automatic_keys, build_changed_source, build_task_for, validate
from tests.det.data.test_voc import xml

SIZE = (48, 64)
CAT, DOG = ("cat", (4, 4, 40, 40)), ("dog", (20, 8, 60, 44))


def pixels(seed, size=SIZE):
    """An image of 6 x 8 random patches: different seeds give images with very different hashes."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(patches, size[::-1], interpolation=cv2.INTER_NEAREST)


def photo(path, seed, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size)).save(path, quality=95)
    return path


def mask(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.asarray(values, np.uint8))
    return path


def halves(size=SIZE, left=0, right=1):
    """A mask whose left half is one class and whose right half another."""
    values = np.full(size, left, np.uint8)
    values[:, size[1] // 2 :] = right
    return values


def masks_data(root, train=4, val=3):
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            photo(root / f"images/{split}/{split}{number}.jpg", [len(split), number])
            mask(root / f"masks/{split}/{split}{number}.png", halves())
    (root / "classes.json").write_text(
        '{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}], "ignore": [255]}'
    )
    return root


def voc_data(root, train=4, val=3):
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            photo(root / f"{split}/{split}{number}.jpg", [len(split), number])
            (root / f"{split}/{split}{number}.xml").write_text(xml(CAT, DOG, size=SIZE))
    return root


def folders_data(root, train=3, val=2):
    for split, count in (("train", train), ("val", val)):
        for place, name in enumerate(("cat", "dog")):
            for number in range(count):
                photo(root / split / name / f"{split}{number}.jpg", [len(split), number, place])
    return root


MAKERS = {"seg": (masks_data, "masks"), "det": (voc_data, "voc"), "cls": (folders_data, "folders")}
SMALL = {"seg": ["data.crop=32"], "det": ["data.size=64"], "cls": ["data.size=32"]}


def arguments(task, root, *more, data=None):
    return [
        f"task={task}",
        f"data={data or MAKERS[task][1]}",
        f"data.root={root}",
        "data.workers=0",
        *SMALL[task],
        *more,
    ]


def checked(task, root, *more, data=None):
    """The result of checking `root`; the cache is next to it."""
    config = compose_config("check", arguments(task, root, *more, data=data))
    automatic = automatic_keys(config)
    config = with_defaults(config, automatic)
    validate(config)
    cache = FactCache(root.parent / "facts.sqlite")
    try:
        return check_dataset(
            build=partial(build_changed_source, config),
            build_task=partial(build_task_for, config, automatic=automatic),
            info=task_info(config),
            cache=cache,
            eval_split=config.data.split,
        )
    finally:
        cache.close()


def found(result):
    """{code: count} of the findings."""
    return {finding.code: finding.count for finding in result.findings}


def finding_of(result, code):
    (finding,) = [each for each in result.findings if each.code == code]
    return finding
