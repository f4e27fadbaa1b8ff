"""Finds near-duplicates: re-saved, resized or brightened copies, and frames of a video.

Two images are near-duplicates if their perceptual hashes differ in at most `HASH_BITS` of 63 bits, and their
thumbnails correlate (each channel minus its mean) by at least `CORRELATION`. The first condition is checked
for pairs that share one of seven parts of the hash, which all pairs with at most six different bits do.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 6
CORRELATION = 0.98
"""Copies saved as JPEG with quality 40 or at half the size reach .998, and most copies brightened by a fifth
reach .98. Different images with close hashes, in coco128 and 1000 ImageNet images, stay below .65."""

LEAST_CONTRAST = 4.0
"""Gray levels; images with less are nearly uniform and have no reliable hash."""

_PARTS, _PART_BITS = 7, 9
_ROWS_AT_ONCE = 1024
_PAIRS_AT_ONCE = 8192
_MOST_PAIRS = 2_000_000


def near_duplicates(
    hashes: NDArray[np.uint64],
    groups: NDArray[np.integer],
    thumbnails: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
) -> NDArray[np.int64]:
    """Pairs [P, 2] of near-duplicates, each with the lower position first, sorted.

    Images of one group (split) with equal hashes are all paired with the first of them, and with the first of
    those in other groups.

    Args:
        hashes: [N], from `perceptual_hash`.
        groups: [N], the split of each image.
        thumbnails: positions [M] -> thumbnails [M, 16, 16, 3].
    """
    order = np.lexsort([np.arange(len(hashes)), groups, hashes])
    starts = np.ones(len(order), bool)
    starts[1:] = (hashes[order[1:]] != hashes[order[:-1]]) | (groups[order[1:]] != groups[order[:-1]])
    first = order[starts]  # one image of each hash and group
    sizes = np.diff(np.append(np.flatnonzero(starts), len(order)))
    same = np.column_stack([np.repeat(first, sizes), order])[~starts]
    close = first[_close_pairs(hashes[first])].reshape(-1, 2)
    position = np.full(len(hashes), -1)
    position[first] = np.arange(len(first))
    ends = np.cumsum(sizes)
    members = [order[ends[place] - sizes[place] : ends[place]] for place in position[close[:, 1]]]
    close = np.column_stack(
        [np.repeat(close[:, 0], [len(each) for each in members]), np.concatenate([*members, []])]
    )
    pairs = np.unique(np.sort(np.concatenate([same, close.astype(np.int64)]), axis=1), axis=0)
    parts = range(0, len(pairs), _PAIRS_AT_ONCE)
    kept = [_correlated(pairs[start : start + _PAIRS_AT_ONCE], thumbnails) for start in parts]
    return np.concatenate([np.empty((0, 2), np.int64), *kept])


def _close_pairs(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs [P, 2] of positions whose hashes differ in at most `HASH_BITS` bits."""
    found, total = [np.empty((0, 2), np.int64)], 0
    for part in range(_PARTS):
        values = (hashes >> np.uint64(1 + part * _PART_BITS)) & np.uint64(2**_PART_BITS - 1)
        order = np.argsort(values, kind="stable")
        bounds = np.flatnonzero(np.diff(values[order])) + 1
        for bucket in np.split(order, bounds):
            for start in range(0, len(bucket), _ROWS_AT_ONCE):
                rows = bucket[start : start + _ROWS_AT_ONCE]
                distances = np.bitwise_count(hashes[rows, None] ^ hashes[None, bucket[start:]])
                one, other = np.nonzero(distances <= HASH_BITS)
                later = other > one
                found.append(np.column_stack([rows[one[later]], bucket[start:][other[later]]]))
                total += len(found[-1])
            if total > _MOST_PAIRS:
                break
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _correlated(
    pairs: NDArray[np.int64], thumbnails: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> NDArray[np.int64]:
    involved, places = np.unique(pairs, return_inverse=True)
    pixels = thumbnails(involved).astype(np.float32)
    pixels = (pixels - pixels.mean(axis=(1, 2), keepdims=True)).reshape(len(involved), -1)
    pixels /= np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)
    one, other = places.reshape(-1, 2).T
    correlations = (pixels[one] * pixels[other]).sum(axis=1)
    chosen: NDArray[np.int64] = pairs[correlations >= CORRELATION]
    return chosen
