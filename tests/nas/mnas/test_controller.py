"""The controller: its distribution, how PPO changes it, its state; and that it beats random search."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch

from backbones.mobilenet_v2 import mobilenet_v2
from engine.errors import UserError
from nas.mnas.baselines import Evolution, RandomSearch
from nas.mnas.controller import Controller, Policy
from nas.mnas.space import MnasSpace


def test_the_policy_is_a_distribution_over_sequences() -> None:
    options = (2, 1, 3)
    policy = Policy(options, hidden=8)
    policy.reset(torch.Generator().manual_seed(0))
    everything = torch.tensor(list(product(*map(range, options))))
    with torch.no_grad():
        log_probs = policy(everything).gather(-1, everything[..., None])[..., 0].sum(1)
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_samples_follow_the_probabilities_that_training_sees() -> None:
    policy = Policy((2, 3), hidden=8)
    policy.reset(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(25)  # far from uniform
        everything = torch.tensor(list(product(range(2), range(3))))
        expected = policy(everything).gather(-1, everything[..., None])[..., 0].sum(1).exp()
    drawn = policy.sample(20_000, torch.Generator().manual_seed(2))
    frequencies = torch.tensor([(drawn == row).all(1).float().mean().item() for row in everything])
    assert expected.max() > 2 / 6
    assert torch.allclose(frequencies, expected, atol=0.012)  # three standard deviations are 0.0106


def test_a_token_depends_only_on_earlier_ones() -> None:
    policy = Policy((3, 3, 3), hidden=8)
    policy.reset(torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second, third = (policy(torch.tensor([t]))[0] for t in ([0, 1, 2], [0, 2, 2], [0, 1, 0]))
    assert torch.equal(first[:2], second[:2])
    assert not torch.equal(first[2], second[2])
    assert torch.equal(first, third)


def test_an_untrained_policy_is_nearly_uniform() -> None:
    policy = Policy((2, 3), hidden=64)
    policy.reset(torch.Generator().manual_seed(0))
    with torch.no_grad():
        probabilities = policy(torch.tensor([[0, 0]])).exp()[0]
    assert probabilities[0, :2].tolist() == pytest.approx([1 / 2, 1 / 2], abs=0.05)
    assert probabilities[1].tolist() == pytest.approx([1 / 3] * 3, abs=0.05)


def test_one_update_raises_the_probability_of_rewarded_tokens() -> None:
    controller = Controller((2, 2), seed=0, entropy=0.0)
    good, bad = (0, 1), (1, 0)
    before = _probability(controller, good), _probability(controller, bad)
    controller.tell([good, bad] * 4, [1.0, 0.0] * 4)
    assert _probability(controller, good) > before[0]
    assert _probability(controller, bad) < before[1]


def test_the_clip_bounds_how_far_one_batch_moves_the_policy() -> None:
    # Without an entropy bonus a token's gradient is 0 once its ratio has left [1 - clip, 1 + clip].
    moved = {}
    for clip in (0.05, 0.9):
        controller = Controller((2,), seed=0, entropy=0.0, clip=clip, updates=60, lr=0.004)
        start = _probability(controller, (0,))
        controller.tell([(0,), (1,)] * 8, [1.0, 0.0] * 8)
        moved[clip] = _probability(controller, (0,)) / start
    assert 1.05 < moved[0.05] < 1.3 < moved[0.9]  # the optimizer's momentum carries it a little further


def test_the_entropy_bonus_keeps_the_policy_undecided() -> None:
    entropies = []
    for entropy in (0.0, 1.0):
        controller = Controller((2, 3, 2), seed=0, entropy=entropy)
        for _ in range(40):
            asked = controller.ask(8)
            controller.tell(asked, [float(tokens[1] == 2) for tokens in asked])
        with torch.no_grad():
            p = controller.policy(torch.tensor([[0, 0, 0]])).exp()[0, 1]
        entropies.append(-(p * p.log()).sum().item())
    assert entropies[0] < 0.2
    assert entropies[1] > 2 * entropies[0]


def test_the_baseline_is_a_moving_average() -> None:
    controller = Controller((2,), baseline_decay=0.9)
    controller.tell([(0,), (1,)], [0.2, 0.4])
    assert controller.baseline == pytest.approx(0.3)
    controller.tell([(0,), (1,)], [0.5, 0.7])
    assert controller.baseline == pytest.approx(0.9 * 0.3 + 0.1 * 0.6)


def test_equal_rewards_do_not_make_the_policy_diverge() -> None:
    controller = Controller((2, 3))
    for reward in (0.0, 0.0, 0.5):
        controller.tell(controller.ask(4), [reward] * 4)
    assert math.isfinite(_probability(controller, (0, 0)))


@pytest.mark.parametrize("make", [Controller, RandomSearch, Evolution])
def test_proposals_depend_on_the_seed(make: type) -> None:
    options = (2, 3, 4) * 4
    drawn = [_proposals(make(options, seed=seed), steps=3) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("make", [Controller, RandomSearch, Evolution])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_loaded_state_continues_identically(make: type, steps: int) -> None:
    options = (2, 3, 4) * 4
    whole, cut, loaded = (make(options, seed=3) for _ in range(3))
    expected = _proposals(whole, steps=steps + 4)[steps:]
    _proposals(cut, steps=steps)
    torch.rand(7)  # the global generator must not matter
    loaded.load(cut.state())
    assert _proposals(loaded, steps=4) == expected


def test_a_state_of_another_size_is_rejected() -> None:
    with pytest.raises(UserError, match="a different space or hidden size"):
        Controller((2, 3)).load(Controller((2, 4)).state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_options": ()}, "num_options must be positive"),
        ({"num_options": (2, 0)}, "num_options must be positive"),
        ({"hidden": 0}, "hidden and updates must be at least 1"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"clip": 1.0}, "clip must be between 0 and 1"),
        ({"baseline_decay": 1.0}, "baseline_decay in"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Controller(**{"num_options": (2, 3), **options})


@pytest.mark.weekly
def test_learning_beats_random_search() -> None:
    """256 samples in the space around MobileNetV2 (10^15.6), on four landscapes whose best value is known.

    Regret is the distance of the best sample from that value, as a share of the mean network's distance. On
    average over the landscapes, the controller must have at most two thirds and evolution at most half of the
    regret of random search, and the mean of the controller's last batch must be above the best of random
    search.
    """
    options = MnasSpace(mobilenet_v2()).num_options
    regrets: dict[str, list[float]] = {"random": [], "controller": [], "evolution": [], "last": []}
    for seed in range(4):
        value = _landscape(options, seed)
        for name, make in (("random", RandomSearch), ("controller", Controller), ("evolution", Evolution)):
            strategy, values = make(options, seed=seed), []
            for _ in range(32):
                asked = strategy.ask(8)
                values.append([value(tokens) for tokens in asked])
                strategy.tell(asked, values[-1])
            regrets[name].append(1 - np.max(values))
            if name == "controller":
                regrets["last"].append(1 - np.mean(values[-1]))
    means = {name: float(np.mean(values)) for name, values in regrets.items()}
    assert means["controller"] < 2 / 3 * means["random"], means
    assert means["evolution"] < 0.5 * means["random"], means
    assert means["last"] < means["random"], means


def _landscape(options: tuple[int, ...], seed: int):
    """Each token and each pair of neighboring tokens has a value. Scaled to a mean of 0 and a best of 1."""
    random = np.random.default_rng(seed)
    single = [random.normal(size=count) for count in options]
    pairs = [0.7 * random.normal(size=shape) for shape in pairwise(options)]
    mean = sum(values.mean() for values in (*single, *pairs))
    best = single[0]
    for values, pair in zip(single[1:], pairs, strict=True):  # Viterbi's algorithm
        best = (best[:, None] + pair).max(0) + values

    def value(tokens: tuple[int, ...]) -> float:
        total = sum(values[token] for values, token in zip(single, tokens, strict=True))
        total += sum(pair[both] for pair, both in zip(pairs, pairwise(tokens), strict=True))
        return float((total - mean) / (best.max() - mean))

    return value


def _proposals(strategy, *, steps: int) -> list:
    asked = []
    for _ in range(steps):
        asked.append(strategy.ask(4))
        strategy.tell(asked[-1], [float(sum(tokens)) for tokens in asked[-1]])
    return asked


def _probability(controller: Controller, tokens: tuple[int, ...]) -> float:
    actions = torch.tensor([tokens])
    with torch.no_grad():
        return controller.policy(actions).gather(-1, actions[..., None]).sum().exp().item()
