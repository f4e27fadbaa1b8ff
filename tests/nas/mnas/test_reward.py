"""The reward of MnasNet and MobileNetV3 has the properties that the papers give."""

import math

import pytest

from nas.mnas.reward import Reward


def test_five_percent_more_accuracy_outweigh_twice_the_latency() -> None:
    # MnasNet, section 3: "doubling the latency usually brings about 5% relative accuracy gain", so
    # Reward(M2) = a (1 + 5%) (2l / T)^beta ~ Reward(M1) = a (l / T)^beta, thus beta ~ -0.07.
    reward = Reward(target_ms=75)
    assert reward.w == -0.07
    assert reward(0.70 * 1.05, 2 * 60) == pytest.approx(reward(0.70, 60), rel=1e-3)


def test_for_small_networks_it_takes_eleven_percent() -> None:
    # MobileNetV3, section 4.1: w = -0.15 instead of -0.07; 2^0.15 = 1.1096.
    reward = Reward(target_ms=20, w=-0.15)
    assert reward(0.5 * 1.1096, 30) == pytest.approx(reward(0.5, 15), rel=1e-4)


def test_at_the_target_the_reward_is_the_accuracy() -> None:
    for form in ("soft", "hard"):
        assert Reward(target_ms=80, form=form)(0.752, 80) == 0.752


def test_a_hard_target_is_free_below_and_inverse_above() -> None:
    # MnasNet, Figure 3: alpha = 0, beta = -1.
    reward = Reward(target_ms=80, form="hard")
    assert (reward.alpha, reward.beta) == (0.0, -1.0)
    assert reward(0.7, 20) == 0.7
    assert reward(0.7, 160) == pytest.approx(0.35)


def test_a_soft_target_also_rewards_lower_latency() -> None:
    reward = Reward(target_ms=80)
    assert (reward.alpha, reward.beta) == (-0.07, -0.07)
    assert reward(0.7, 40) == pytest.approx(0.7 * 2**0.07)


def test_limits_that_are_accepted() -> None:
    assert Reward(target_ms=80, w=0)(0.7, 500) == 0.7
    assert Reward(target_ms=0.5, w=-2)(0.7, 1) == pytest.approx(0.7 / 4)
    assert Reward(target_ms=80)(0, 0.5) == 0
    assert Reward(target_ms=80, form="hard")(1.0, 80) == 1.0
    assert Reward(target_ms=80, w=-1.5)(1.5, 80) == 1.5  # a score need not be a share


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_ms": -1}, "target_ms must be a positive number"),
        ({"target_ms": math.inf}, "target_ms must be a positive number"),
        ({"target_ms": 80, "w": -math.inf}, "w must be negative"),
        ({"target_ms": 80, "w": math.nan}, "w must be negative"),
        ({"target_ms": 0}, "target_ms must be a positive number"),
        ({"target_ms": math.nan}, "target_ms must be a positive number"),
        ({"target_ms": 80, "w": 0.07}, "w must be negative"),
        ({"target_ms": 80, "form": "medium"}, "form must be soft or hard"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reward(**options)


@pytest.mark.parametrize(
    ("accuracy", "latency"), [(math.nan, 1), (-0.1, 1), (math.inf, 1), (0.5, 0), (0.5, -1), (0.5, math.inf)]
)
def test_invalid_measurements_are_rejected(accuracy: float, latency: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Reward(target_ms=80)(accuracy, latency)
