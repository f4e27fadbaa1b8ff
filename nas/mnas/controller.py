"""The controller of MnasNet: an LSTM that generates an architecture token by token, trained with PPO."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.errors import UserError
from nas.mnas.space import Tokens

_INITIAL = 0.1  # weights start uniform in [-0.1, 0.1], so that the first samples are nearly uniform


class Policy(nn.Module):
    """An autoregressive distribution over token sequences.

    forward: tokens [N, T] -> log-probabilities [N, T, max(num_options)], -inf for options that do not exist.

    Args:
        num_options: number of options of each token.
    """

    unavailable: Tensor

    def __init__(self, num_options: Sequence[int], *, hidden: int) -> None:
        super().__init__()
        most = max(num_options)
        self.hidden, self.most = hidden, most
        # A token means something different at each place, so each place has its own embeddings and weights.
        self.embed = nn.Embedding(len(num_options) * most + 1, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.head = nn.Parameter(torch.empty(len(num_options), most, hidden))
        numbers = torch.tensor(num_options)
        self.register_buffer("unavailable", torch.arange(most) >= numbers[:, None], persistent=False)

    def reset(self, generator: torch.Generator) -> None:
        """Initialize the weights at random."""
        with torch.no_grad():
            for weight in self.parameters():
                weight.uniform_(-_INITIAL, _INITIAL, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1] - 1)
        before = tokens[:, :-1] + places * self.most + 1
        start = torch.zeros_like(tokens[:, :1])
        states, _ = self.lstm(self.embed(torch.cat([start, before], dim=1)))
        return self._log_probs(torch.einsum("nth,toh->nto", states, self.head), self.unavailable)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Tokens [count, T]."""
        token, memory, tokens = torch.zeros(count, 1, dtype=torch.long), None, []
        with torch.no_grad():
            for place, (head, unavailable) in enumerate(zip(self.head, self.unavailable, strict=True)):
                states, memory = self.lstm(self.embed(token), memory)
                log_probs = self._log_probs(states[:, 0] @ head.T, unavailable)
                drawn = torch.multinomial(log_probs.exp(), 1, generator=generator)
                tokens.append(drawn)
                token = drawn + place * self.most + 1
        return torch.cat(tokens, dim=1)

    @staticmethod
    def _log_probs(scores: Tensor, unavailable: Tensor) -> Tensor:
        return scores.masked_fill(unavailable, -math.inf).log_softmax(-1)


class Controller:
    """Proposes architectures and learns from their rewards by proximal policy optimization (PPO).

    The objective is PPO's clipped one with an entropy bonus. The advantage of a reward is its distance from
    the moving average of earlier rewards, in standard deviations of its batch. Proposals depend only on the
    seed and on the rewards told so far.

    The papers (MnasNet, section 4.2; its controller is NASNet's) used about 8000 samples with a learning rate
    of 0.00035 and an entropy bonus of 0.00001. The defaults here are meant for a few hundred.

    Args:
        num_options: number of options of each token (`MnasSpace.num_options`).
        hidden: units of the LSTM.
        updates: optimizer steps for each batch of rewards.
        clip: a batch may change a probability by a factor between 1 - clip and 1 + clip.
        entropy: factor on the mean entropy of a token, in nats.
        baseline_decay: of the moving average of the rewards, per batch.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        num_options: Sequence[int],
        *,
        seed: int = 0,
        hidden: int = 64,
        lr: float = 0.004,
        updates: int = 4,
        clip: float = 0.2,
        entropy: float = 0.1,
        baseline_decay: float = 0.8,
    ) -> None:
        if not num_options or min(num_options) < 1:
            raise ValueError(f"num_options must be positive numbers, got {list(num_options)}")
        if hidden < 1 or updates < 1:
            raise ValueError(f"hidden and updates must be at least 1, got {hidden} and {updates}")
        if lr <= 0 or entropy < 0:
            raise ValueError(f"lr must be positive and entropy at least 0, got {lr} and {entropy}")
        if not 0 < clip < 1 or not 0 <= baseline_decay < 1:
            raise ValueError(
                f"clip must be between 0 and 1 and baseline_decay in [0, 1), got {clip} and {baseline_decay}"
            )
        self.seed, self.updates, self.clip = seed, updates, clip
        self.entropy, self.baseline_decay = entropy, baseline_decay
        self.policy = Policy(num_options, hidden=hidden)
        self.policy.reset(torch.Generator().manual_seed(seed))
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=lr)
        self.baseline: float | None = None
        self.told = 0

    def ask(self, count: int) -> list[Tokens]:
        """The next `count` architectures; the same ones until it is told their rewards."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.told + 1)
        return [tuple(tokens) for tokens in self.policy.sample(count, generator).tolist()]

    def tell(self, tokens: Sequence[Tokens], rewards: Sequence[float]) -> None:
        """Learn from the rewards of the architectures that were asked for last."""
        actions, values = torch.tensor(tokens), torch.tensor(rewards, dtype=torch.float64)
        mean = values.mean().item()
        baseline = mean if self.baseline is None else self.baseline
        advantage = ((values - baseline) / (values.std(correction=0) + 1e-8)).clamp(-5, 5).float()
        with torch.no_grad():
            old = self._log_probs_of(actions, self.policy(actions))
        for _ in range(self.updates):
            self.optimizer.zero_grad()
            torch.autograd.backward(self._loss(actions, old, advantage))
            self.optimizer.step()
        self.baseline = self.baseline_decay * baseline + (1 - self.baseline_decay) * mean
        self.told += len(rewards)

    def _loss(self, actions: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        log_probs = self.policy(actions)
        ratio = (self._log_probs_of(actions, log_probs) - old).exp()  # [N, T]
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        gain = torch.minimum(ratio * advantage[:, None], clipped * advantage[:, None])
        entropy = -(log_probs.exp() * log_probs.nan_to_num(neginf=0.0)).sum(-1)
        loss: Tensor = -(gain.mean() + self.entropy * entropy.mean())
        return loss

    @staticmethod
    def _log_probs_of(actions: Tensor, log_probs: Tensor) -> Tensor:
        return log_probs.gather(-1, actions[..., None])[..., 0]

    def state(self) -> dict[str, Tensor]:
        """Weights, the optimizer's moments, the baseline and the number of rewards told, as tensors."""
        state = {f"policy.{name}": tensor for name, tensor in self.policy.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
        state["told"] = torch.tensor(self.told)
        state["baseline"] = torch.tensor(
            math.nan if self.baseline is None else self.baseline, dtype=torch.float64
        )
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`; the search then continues as if it had not been interrupted.

        Raises:
            UserError: if the state belongs to a controller of another size.
        """
        weights = {n.removeprefix("policy."): t for n, t in state.items() if n.startswith("policy.")}
        own = self.policy.state_dict()
        if {n: t.shape for n, t in weights.items()} != {n: t.shape for n, t in own.items()}:
            raise UserError(
                "the saved controller has a different space or hidden size; use the same as before"
            )
        self.policy.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("optimizer."):
                _, number, moment = name.split(".")
                moments.setdefault(int(number), {})[moment] = tensor.clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        baseline = state["baseline"].item()
        self.baseline = None if math.isnan(baseline) else baseline
        self.told = int(state["told"])
