"""Baselines for the controller: random search and regularized evolution, with the same interface."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nas.mnas.space import Tokens


class RandomSearch:
    """Draws every token uniformly, regardless of the rewards.

    Args:
        num_options: number of options of each token (`MnasSpace.num_options`).

    Raises:
        ValueError: if a token has no options.
    """

    def __init__(self, num_options: Sequence[int], *, seed: int = 0) -> None:
        _check(num_options)
        self.num_options, self.seed, self.told = tuple(num_options), seed, 0

    def ask(self, count: int) -> list[Tokens]:
        """The next `count` architectures; the same ones until it is told their rewards."""
        random = np.random.default_rng([self.seed, self.told])
        return [_random_tokens(self.num_options, random) for _ in range(count)]

    def tell(self, tokens: Sequence[Tokens], rewards: Sequence[float]) -> None:
        """Count the rewards, so that the next architectures are new ones."""
        self.told += len(rewards)

    def state(self) -> dict[str, Tensor]:
        return {"told": torch.tensor(self.told)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.told = int(state["told"])


class Evolution:
    """Regularized evolution (Real et al., 2019): the oldest member of the population dies, not the worst.

    The first `population` architectures are drawn at random. Each later one is the best of `tournament`
    members drawn from the population, with one token changed. The architectures of one `ask` all have their
    parents in the same population.

    Args:
        num_options: number of options of each token (`MnasSpace.num_options`).

    Raises:
        ValueError: if a token has no options, or the tournament is not between 1 and the population.
    """

    def __init__(
        self, num_options: Sequence[int], *, seed: int = 0, population: int = 32, tournament: int = 8
    ) -> None:
        _check(num_options)
        if not 1 <= tournament <= population:
            raise ValueError(
                f"tournament must be at least 1 and at most population={population}, got {tournament}"
            )
        self.num_options, self.seed, self.told = tuple(num_options), seed, 0
        self.population, self.tournament = population, tournament
        self.members: list[tuple[Tokens, float]] = []  # oldest first

    def ask(self, count: int) -> list[Tokens]:
        """The next `count` architectures; the same ones until it is told their rewards."""
        random = np.random.default_rng([self.seed, self.told])
        missing = self.population - len(self.members)
        return [
            _random_tokens(self.num_options, random) if number < missing else self._child(random)
            for number in range(count)
        ]

    def _child(self, random: np.random.Generator) -> Tokens:
        if not self.members:  # `ask` was called for more architectures than the population has members
            return _random_tokens(self.num_options, random)
        drawn = random.choice(len(self.members), size=min(self.tournament, len(self.members)), replace=False)
        parent: Tokens = max((self.members[number] for number in drawn), key=lambda member: member[1])[0]
        places = [place for place, options in enumerate(self.num_options) if options > 1]
        if not places:
            return parent
        place = int(random.choice(places))
        step = int(random.integers(1, self.num_options[place]))
        changed = (parent[place] + step) % self.num_options[place]
        return (*parent[:place], changed, *parent[place + 1 :])

    def tell(self, tokens: Sequence[Tokens], rewards: Sequence[float]) -> None:
        """Add the architectures to the population, and drop its oldest members."""
        self.members += list(zip(tokens, rewards, strict=True))
        self.members = self.members[-self.population :]
        self.told += len(rewards)

    def state(self) -> dict[str, Tensor]:
        """The population, oldest first, and the number of rewards told."""
        return {
            "told": torch.tensor(self.told),
            "tokens": torch.tensor([tokens for tokens, _ in self.members], dtype=torch.long),
            "rewards": torch.tensor([reward for _, reward in self.members], dtype=torch.float64),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.told = int(state["told"])
        members = zip(state["tokens"].tolist(), state["rewards"].tolist(), strict=True)
        self.members = [(tuple(tokens), reward) for tokens, reward in members]


def _check(num_options: Sequence[int]) -> None:
    if not num_options or min(num_options) < 1:
        raise ValueError(f"num_options must be positive numbers, got {list(num_options)}")


def _random_tokens(num_options: Sequence[int], random: np.random.Generator) -> Tokens:
    return tuple(int(random.integers(options)) for options in num_options)
