"""PANLite as a network: initial outputs, order of cells, additional maps, options; more in test_model.py."""

from functools import partial

import pytest
import torch

from backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from det.anchors.generators import Cells, SSDAnchors
from det.boxes import mean_distances
from det.model import Detector
from det.panlite.head import PANLite, first_logits


def detector(*, size=64, maps=3, num_classes=5, anchors=None, backbone=None, **options):
    return Detector(
        backbone=backbone or mobilenet_v3_small(),
        num_classes=num_classes,
        input_size=size,
        anchors=anchors or Cells(maps=maps),
        head=partial(PANLite, **{"width": 16, "bins": 8, **options}),
        c3="block",
        c4="block",
        c5="block",
    )


@pytest.mark.parametrize(
    ("spec", "channels"),
    [
        (mobilenet_v3_large(tail="dagger"), {"block6": 40, "block12": 112, "block15": 80}),
        (mobilenet_v3_small(), {"block3": 24, "block8": 48, "block11": 96}),
    ],
)
def test_the_features_it_reads(spec, channels):
    with torch.device("meta"):
        model = detector(backbone=spec)
    assert model.backbone.channels == channels
    assert list(model.backbone.strides.values()) == [8, 16, 32]


def test_before_training_boxes_have_five_cells_and_no_score_is_high():
    torch.manual_seed(0)
    model = detector(bins=16).eval()
    deltas, scores = model(torch.rand(1, 3, 64, 64))
    assert mean_distances(deltas).mean().item() == pytest.approx(2.5, abs=0.1)
    assert scores.sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)


def test_first_logits_by_hand():
    """With three bins no distribution reaches a mean of 2.5; with six, the uniform one does."""
    assert first_logits(3) == pytest.approx([0, 0, 0], abs=1e-9)
    assert first_logits(6) == pytest.approx([0] * 6, abs=1e-9)
    shares = torch.tensor(first_logits(16)).softmax(0)
    assert (shares @ torch.arange(16.0)).item() == pytest.approx(2.5, abs=1e-5)
    assert (shares[:-1] / shares[1:]).tolist() == pytest.approx(
        [(shares[0] / shares[1]).item()] * 15, rel=1e-4
    )


@pytest.mark.parametrize("separate", [False, True])
def test_predictions_are_in_the_order_of_the_cells(separate):
    model = detector(size=(64, 96), separate=separate).eval()
    seen = []
    for predictor in (*model.head.boxes, *model.head.scores):
        predictor.register_forward_hook(lambda module, inputs, output: seen.append(output))
    deltas, scores = model(torch.rand(1, 3, 64, 96))
    start = 0
    for of_map, (boxes, confidences) in enumerate(zip(seen[:3], seen[3:], strict=True)):
        rows, columns = ((8, 12), (4, 6), (2, 3))[of_map]
        for row, column in ((0, 0), (0, columns - 1), (rows - 1, 1)):
            index = start + row * columns + column
            assert torch.equal(deltas[0, index], boxes[0, :, row, column])
            assert torch.equal(scores[0, index], confidences[0, :, row, column])
            cell = torch.tensor([column / columns, row / rows, (column + 1) / columns, (row + 1) / rows])
            torch.testing.assert_close(model.anchors[index], cell)
        start += rows * columns
    assert start == deltas.shape[1] == len(model.anchors)


@pytest.mark.parametrize("size", [(320, 320), (97, 65)])
def test_additional_maps(size):
    model = detector(size=size, maps=5).eval()
    assert len(model.map_sizes()) == 5
    deltas, scores = model(torch.rand(1, 3, *size))
    assert deltas.shape == (1, len(model.anchors), 32)
    assert scores.shape == (1, len(model.anchors), 5)


def test_separate_towers_have_weights_of_their_own():
    shared, separate = (
        {key for key in detector(separate=separate).state_dict() if "box_towers" in key}
        for separate in (False, True)
    )
    assert not shared
    assert separate


def test_every_map_influences_every_other():
    """Merging goes down and up again: a change in one feature reaches the predictions on all maps."""
    head = PANLite(
        channels=(4, 6, 8), num_classes=2, anchors_per_cell=(1, 1, 1), backbone=mobilenet_v3_small(), width=8
    )
    head.train()  # batch norm by the batch, as signals would vanish with the initial statistics
    features = [torch.rand(2, c, side, side) for c, side in ((4, 8), (6, 4), (8, 2))]
    before = head(*features)[1].split([64, 16, 4], dim=1)
    for changed in range(3):
        moved = [torch.rand_like(x) if i == changed else x for i, x in enumerate(features)]
        after = head(*moved)[1].split([64, 16, 4], dim=1)
        assert all((a - b).abs().max() > 1e-3 for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"depth": -1}, "depth must be at least 0"),
        ({"bins": 1}, "bins must be at least 2"),
        ({"maps": 2}, "3 features but anchors for 2 maps; set the anchors' maps to 3"),
        ({"anchors": SSDAnchors(maps=3)}, r"one box per cell; use model\.anchors\._target_=.*Cells"),
    ],
)
def test_options_that_do_not_fit_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        detector(**options)
