"""The report of platform-aware NAS."""

import math
from pathlib import Path

import cv2

from backbones.mobilenet_v3 import SMALL
from nas.mnas.report import draw_scatter, layer_table, pareto_front, write_mnas_report
from nas.mnas.reward import Reward
from nas.mnas.space import MnasSpace
from nas.mnas.trials import MnasResult, SampledTrial


def result(*measured: tuple[float, float]) -> MnasResult:
    space, reward = MnasSpace(SMALL), Reward(target_ms=10.0)
    trials = []
    for number, (accuracy, latency_ms) in enumerate(measured):
        tokens = (number % 2, (number // 2) % 3, *[0] * 28)
        failed = math.isnan(accuracy)
        trials.append(
            SampledTrial(
                number=number,
                tokens=tokens,
                spec=space.decode(tokens),
                accuracy=accuracy,
                latency_ms=latency_ms,
                reward=0.0 if failed else reward(accuracy, latency_ms),
                error="RuntimeError: lost" if failed else "",
            )
        )
    return MnasResult(space=space, reward=reward, trials=tuple(trials))


SOME = ((0.5, 10.0), (0.4, 12.0), (math.nan, 8.0), (0.6, 20.0), (0.3, 5.0))


def test_the_front_has_the_trials_that_no_other_one_beats() -> None:
    assert [trial.number for trial in pareto_front(result(*SOME).trials)] == [4, 0, 3]


def test_the_report_lists_the_best_and_the_failed_trials(tmp_path: Path) -> None:
    write_mnas_report(
        tmp_path, result(*SOME), metric="mIoU", commands=["python tools/train.py backbone=network.yaml"]
    )
    text = (tmp_path / "report.md").read_text()
    best = 0.6 * 2**-0.07
    assert f"reward {best:.4f}, mIoU 0.6000 after the short training, 20.000 ms" in text
    assert "5 trials, 5 different networks, 1 failed" in text
    assert "| 3 | 0.0000 | failed | 8.000 |" in text
    assert "python tools/train.py backbone=network.yaml" in text
    rows = [line for line in text.splitlines() if line.startswith(("| 1", "| 2", "| 3", "| 4", "| 5"))]
    rewards = [float(row.split("|")[2]) for row in rows]
    assert rewards == sorted(rewards, reverse=True)
    assert len(rows) == 5


def test_the_layer_table_is_that_of_the_paper() -> None:
    # Table 2: bneck 1 is 3x3, expansion 16, out 16, SE, RE, stride 2; bneck 4 is 5x5, 96, 40, SE, HS, 2.
    lines = layer_table(SMALL).splitlines()
    assert "| block1 | 3x3 | 16 | 16 | yes | RE | 2 |" in lines
    assert "| block4 | 5x5 | 96 | 40 | yes | HS | 2 |" in lines
    assert lines[-1] == "| last | 1x1 |  | 576 |  | HS | 1 |"


def test_the_chart_shows_every_search(tmp_path: Path) -> None:
    one, two = result(*SOME), result((0.2, 3.0), (0.3, 4.0))
    draw_scatter(tmp_path / "one.png", {"w = -0.07": one}, metric="mIoU")
    draw_scatter(tmp_path / "two.png", {"w = -0.07": one, "w = -0.15": two}, metric="mIoU")
    charts = [cv2.imread(str(tmp_path / name)) for name in ("one.png", "two.png")]
    orange = [int(((p[..., 2] > 240) & (p[..., 1] < 140) & (p[..., 0] < 60)).sum()) for p in charts]
    assert orange[0] == 0 < orange[1]
