"""Full-resolution scores: plain, flipped, multi-scale, sliding window."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from seg.inference import tiles, views
from seg.inference.tiles import starts as _starts
from seg.task import Inference


def columns(images):
    """A network without a receptive field: scores follow the pixel."""
    return torch.cat([images[:, :1], 1 - images[:, :1]], dim=1)


def test_a_single_pass_is_the_network_resized():
    images = torch.rand(1, 3, 8, 12)
    scores = Inference()(columns, images, (16, 24), align_corners=False)
    expected = torch.nn.functional.interpolate(columns(images), (16, 24), mode="bilinear")
    torch.testing.assert_close(scores, expected)


def test_a_scale_never_shrinks_an_image_to_nothing():
    scores = Inference(scales=[0.01])(columns, torch.rand(1, 3, 8, 12), (8, 12), align_corners=False)
    assert scores.shape == (1, 2, 8, 12)


def test_flip_is_undone():
    images = torch.rand(1, 3, 8, 12)
    scores = Inference(flip=True)(columns, images, (8, 12), align_corners=False)
    torch.testing.assert_close(scores, 2 * columns(images).softmax(1))


@pytest.mark.parametrize("window", [(32, 32), (32, 48), (64, 96)])
def test_a_sliding_window_averages_over_every_pixel(window):
    images = torch.rand(1, 3, 40, 70)
    scores = Inference(window=window)(columns, images, (40, 70), align_corners=False)
    torch.testing.assert_close(scores, columns(images).softmax(1))


@pytest.mark.parametrize(
    ("length", "window", "overlap"), [(100, 32, 0.0), (100, 32, 0.5), (33, 32, 0.0), (32, 32, 0.9)]
)
def test_windows_end_at_the_border_and_leave_no_gap(length, window, overlap):
    starts = _starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - window
    assert all(b - a <= window * (1 - overlap) + 1 for a, b in pairwise(starts))


@pytest.mark.parametrize(
    "options", [{"scales": []}, {"scales": [0.0]}, {"window": [16, 64]}, {"overlap": 1.0}]
)
def test_a_bad_option_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Inference(**options)


def unbounded(network, images, size, *, scales, flip, window, overlap, align_corners):
    """Label maps from scores of the whole image, in the order of `Inference`: scales, mirror, windows."""

    def enlarge(values, size):
        if values.shape[-2:] == size:
            return values
        return functional.interpolate(values, size, mode="bilinear", align_corners=align_corners)

    total = 0
    for scale in scales:
        scaled = images
        if scale != 1:
            shape = tuple(round(side * scale) for side in images.shape[-2:])
            scaled = functional.interpolate(images, shape, mode="bilinear", align_corners=False)
        height, width = scaled.shape[-2:]
        rows, columns = window or (height, width)
        for mirror in (False, True) if flip else (False,):
            shown = scaled.flip(-1) if mirror else scaled
            scores, count = 0, torch.zeros(1, 1, height, width)
            for top in _starts(height, rows, overlap):
                for left in _starts(width, columns, overlap):
                    tile = network(shown[..., top : top + rows, left : left + columns])
                    tile = enlarge(tile, (rows, columns)) if window else tile
                    if window is None:
                        scores, count = tile, 1
                        continue
                    if not isinstance(scores, torch.Tensor):
                        scores = torch.zeros(*tile.shape[:2], height, width)
                    scores[..., top : top + rows, left : left + columns] += tile
                    count[..., top : top + rows, left : left + columns] += 1
            probabilities = enlarge(scores / count, size).softmax(1)
            total = total + (probabilities.flip(-1) if mirror else probabilities)
    return total.argmax(1).to(torch.uint8)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1)).eval()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"window": (64, 80)},
        {"window": (64, 80), "overlap": 0.0},
        {"window": (40, 48), "overlap": 0.8},
        {"window": (64, 80), "flip": True},
        {"window": (64, 80), "scales": (0.5, 1.0, 1.3), "flip": True},
        {"scales": (0.5, 1.25), "flip": True},
        {"window": (500, 64)},
    ],
)
@torch.inference_mode()
def test_tiles_give_the_label_map_of_the_unbounded_computation(network, options, align_corners, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", 6 * 4 * 80 * 90)
    monkeypatch.setattr(views, "TILE_BYTES", 6 * 4 * 300)  # 300 pixels
    pixels = torch.randint(0, 256, (2, 3, 150, 211), dtype=torch.uint8)
    options = {"scales": (1.0,), "flip": False, "window": None, "overlap": 1 / 3, **options}
    inference = Inference(**options)
    if options["window"]:
        options["window"] = (min(options["window"][0], 150), options["window"][1])
    seen = []
    found = inference.labels(
        network,
        pixels,
        (150, 211),
        normalize=normalized,
        align_corners=align_corners,
        on_part=lambda *part: seen.append(part),
    )
    expected = unbounded(network, normalized(pixels), (150, 211), align_corners=align_corners, **options)
    exact = options["scales"] == (1.0,)  # other sizes are interpolated in parts
    assert (found != expected).float().mean() <= (0 if exact else 1e-4)
    if options["window"]:
        assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)]


def normalized(pixels):
    return (pixels.float() - 127.5) / 127.5


@pytest.mark.parametrize("align_corners", [False, True])
@torch.inference_mode()
def test_scores_of_a_large_image_are_enlarged_in_strips(network, align_corners, monkeypatch):
    pixels = torch.randint(0, 256, (1, 3, 150, 211), dtype=torch.uint8)
    at_once = {"normalize": normalized, "align_corners": align_corners}
    whole = Inference().labels(network, pixels, (150, 211), **at_once)
    torch.testing.assert_close(
        whole,
        functional.interpolate(
            network(normalized(pixels)), (150, 211), mode="bilinear", align_corners=align_corners
        )
        .argmax(1)
        .byte(),
        rtol=0,
        atol=0,
    )
    monkeypatch.setattr(views, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(views, "TILE_BYTES", 6 * 4 * 211 * 7)
    strips = Inference().labels(network, pixels, (150, 211), **at_once)
    assert (strips != whole).float().mean() < 1e-4


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(37, 53), (61, 20), (8, 1), (1, 9)])
def test_a_part_of_a_resized_grid_is_that_part_of_the_whole(size, align_corners):
    values = torch.rand(2, 3, 19, 27)
    resized = tiles.Resized(tiles.Whole(values), size, align_corners=align_corners)
    expected = functional.interpolate(values, size, mode="bilinear", align_corners=align_corners)
    for top, bottom in ((0, size[0] // 2), (size[0] // 2, size[0])):
        for left, right in ((0, size[1] // 3), (size[1] // 3, size[1])):
            area = tiles.Area(top, bottom, left, right)
            if 0 in area.size:
                continue
            torch.testing.assert_close(resized.part(area), area.of(expected), rtol=1e-4, atol=1e-4)
