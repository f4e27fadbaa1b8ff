"""What the controller is compared with: random search and regularized evolution, asked and told alike."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nas.mnas.space import Tokens


class RandomSearch:
    """Draws every token uniformly, whatever it is told.

    Args:
        num_options: options of each token in turn (`MnasSpace.num_options`).
    """

    def __init__(self, num_options: Sequence[int], *, seed: int = 0) -> None:
        _check(num_options)
        self.num_options, self.seed, self.told = tuple(num_options), seed, 0

    def ask(self, count: int) -> list[Tokens]:
        """The next `count` architectures; asking again before anything is told gives the same."""
        random = np.random.default_rng([self.seed, self.told])
        return [_drawn(self.num_options, random) for _ in range(count)]

    def tell(self, tokens: Sequence[Tokens], rewards: Sequence[float]) -> None:
        """Count them."""
        self.told += len(rewards)

    def state(self) -> dict[str, Tensor]:
        return {"told": torch.tensor(self.told)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.told = int(state["told"])


class Evolution:
    """Regularized evolution (Real et al., 2019): a population from which the oldest goes, not the worst.

    The first `population` architectures are drawn at random. Each later one is the best of `tournament`
    members drawn from the population, with one token changed. All of one `ask` come from the population as
    it was told last.

    Args:
        num_options: options of each token in turn (`MnasSpace.num_options`).

    Raises:
        ValueError: a tournament that is not between 1 and the population.
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
        self.members: list[tuple[Tokens, float]] = []  # the oldest first

    def ask(self, count: int) -> list[Tokens]:
        """The next `count` architectures; asking again before anything is told gives the same."""
        random = np.random.default_rng([self.seed, self.told])
        young = self.population - len(self.members)
        return [
            _drawn(self.num_options, random) if number < young else self._child(random)
            for number in range(count)
        ]

    def _child(self, random: np.random.Generator) -> Tokens:
        if not self.members:  # all that was asked for at once exceeds the population
            return _drawn(self.num_options, random)
        drawn = random.choice(len(self.members), size=min(self.tournament, len(self.members)), replace=False)
        parent: Tokens = max((self.members[number] for number in drawn), key=lambda member: member[1])[0]
        open_places = [place for place, options in enumerate(self.num_options) if options > 1]
        if not open_places:
            return parent
        place = int(random.choice(open_places))
        step = int(random.integers(1, self.num_options[place]))
        changed = (parent[place] + step) % self.num_options[place]
        return (*parent[:place], changed, *parent[place + 1 :])

    def tell(self, tokens: Sequence[Tokens], rewards: Sequence[float]) -> None:
        """Add them to the population, and let its oldest go."""
        self.members += list(zip(tokens, rewards, strict=True))
        self.members = self.members[-self.population :]
        self.told += len(rewards)

    def state(self) -> dict[str, Tensor]:
        """The population, the oldest first, and the number of rewards told."""
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


def _drawn(num_options: Sequence[int], random: np.random.Generator) -> Tokens:
    return tuple(int(random.integers(options)) for options in num_options)
