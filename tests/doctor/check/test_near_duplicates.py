"""Near-duplicates: what is found among hashes, and among copies of images that were changed a little."""

import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from doctor.check.image_facts import FACTS, image_facts, perceptual_hash, thumbnail_of
from doctor.check.near_duplicates import HASH_BITS, near_duplicates
from doctor.check.page import _drawn_pairs
from tests.doctor.check.datasets import pixels


def alike(positions):
    """Thumbnails that are all the same."""
    gradient = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3) % 251
    return np.repeat(gradient[None].astype(np.uint8), len(positions), axis=0)


def pairs(hashes, groups=None, thumbnails=alike):
    hashes = np.array(hashes, np.uint64)
    groups = np.zeros(len(hashes), int) if groups is None else np.array(groups)
    return near_duplicates(hashes, groups, thumbnails).tolist()


def test_hashes_that_differ_in_at_most_six_bits_are_pairs():
    base = 0b1010 << 20
    near, far = base ^ 0b111111 << 40, base ^ 0b1111111 << 30
    assert pairs([base, near, far]) == [[0, 1]]


def test_every_pair_is_found_wherever_the_bits_differ():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**62, 300, dtype=np.uint64) << np.uint64(1)
    for index in range(150, 300):
        bits = random.choice(np.arange(1, 64), HASH_BITS, replace=False)
        hashes[index] = hashes[index - 150] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64))
    expected = [
        [one, other]
        for one, other in itertools.combinations(range(300), 2)
        if (int(hashes[one]) ^ int(hashes[other])).bit_count() <= HASH_BITS
    ]
    assert len(expected) >= 150
    assert pairs(hashes) == expected


def test_thumbnails_that_do_not_correlate_are_no_pair():
    random = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), np.uint8)
    assert pairs([4, 4], thumbnails=lambda positions: random[positions]) == []


def test_equal_hashes_are_paired_with_the_first_of_their_split_and_of_others():
    assert pairs([8, 8, 8, 8], groups=[0, 0, 1, 1]) == [[0, 1], [0, 2], [0, 3], [2, 3]]


def test_no_images_have_no_pairs():
    assert pairs([]) == []


def facts_of(path, image):
    cv2.imwrite(str(path), image[..., ::-1])
    value = image_facts(str(path))
    return np.frombuffer(value, FACTS, count=1)[0], thumbnail_of(value)


@pytest.mark.parametrize("change", ["jpeg", "half", "brighter"])
def test_a_changed_copy_is_found_among_other_images(tmp_path, change):
    original = cv2.GaussianBlur(cv2.resize(pixels(0), (320, 240)), (0, 0), 9)
    changed = {
        "jpeg": lambda: cv2.imdecode(cv2.imencode(".jpg", original, [1, 40])[1], 1),
        "half": lambda: cv2.resize(original, (160, 120), interpolation=cv2.INTER_AREA),
        "brighter": lambda: np.clip(original * 1.15, 0, 255).astype(np.uint8),
    }[change]()
    others = [cv2.GaussianBlur(cv2.resize(pixels(seed), (320, 240)), (0, 0), 9) for seed in range(1, 20)]
    known = [facts_of(tmp_path / f"{i}.png", image) for i, image in enumerate([original, *others, changed])]
    thumbnails = np.stack([thumbnail for _, thumbnail in known])
    hashes = [int(row["hash"]) for row, _ in known]
    assert pairs(hashes, thumbnails=lambda positions: thumbnails[positions]) == [[0, 20]]


def test_the_hash_ignores_brightness_and_contrast():
    gray = cv2.resize(np.random.default_rng(2).random((8, 8)).astype(np.float32), (32, 32)) * 100
    assert perceptual_hash(gray * 2 + 30) == perceptual_hash(gray)
    assert perceptual_hash(gray) != perceptual_hash(gray[::-1].copy())


def test_facts_are_those_of_the_image(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = 200  # half of the pixels: mean 100, deviation 100
    row, thumbnail = facts_of(tmp_path / "a.png", image)
    assert (row["height"], row["width"], row["orientation"], row["pages"]) == (40, 60, 1, 1)
    assert (row["brightness"], row["contrast"]) == (100, 100)
    assert (row["mode"], row["deep"]) == (b"RGB", False)
    assert thumbnail[:, :7].min() == 200
    assert thumbnail[:, 9:].max() == 0


def test_pairs_are_drawn_with_the_pixel_range_of_the_data(tmp_path):
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.tif"), np.full((48, 64), 0.5, np.float32))
    scan = SimpleNamespace(
        first_split=np.array([0, 1]),
        rows={"train": None, "val": None},
        path=lambda file: str(tmp_path / f"{'ab'[file]}.tif"),
        pixel_range=(0.0, 1.0),
        upright=True,
    )
    ((drawn, caption),) = _drawn_pairs(scan, [[0, 1]])
    assert caption == "train: a.tif and val: b.tif"
    assert (drawn[-1] == 128).all()
