"""Platform-aware NAS: what it records, that it resumes, and how it treats failures."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from backbones.mobilenet_v3 import SMALL
from backbones.spec import NetSpec, with_width
from engine.config.compose import compose_config
from engine.config.instantiate import build
from engine.errors import UserError
from engine.run import checkpoint
from nas.executors import Executor, ProcessExecutor, SerialExecutor
from nas.history import SearchHistory
from nas.mnas.baselines import Evolution, RandomSearch
from nas.mnas.controller import Controller
from nas.mnas.reward import Reward
from nas.mnas.search import MnasSearch
from nas.mnas.space import MnasSpace
from nas.mnas.trials import MnasResult, SampledTrial

SKELETON = with_width(SMALL, 0.5)


def accuracy(spec: NetSpec, seed: int) -> float:
    """Saturates with capacity, and SE helps: there is something to find, without training."""
    capacity = sum(block.exp * (1.2 if block.se else 1.0) for block in spec.blocks)
    return capacity / (capacity + 2000)


def latency(spec: NetSpec) -> float:
    return sum(block.exp * (block.kernel**2 + block.out) for block in spec.blocks) / 1e4


def method(samples: int = 20, batch: int = 4, strategy: Callable = Controller, **reward: float) -> MnasSearch:
    return MnasSearch(
        samples=samples,
        batch=batch,
        reward=Reward(**{"target_ms": 20.0, **reward}),
        space=MnasSpace,
        strategy=strategy,
    )


class Search:
    """A search in a folder, which can be killed and started again."""

    def __init__(self, folder: Path, skeleton: NetSpec = SKELETON, seed: int = 0) -> None:
        self.folder, self.skeleton, self.seed = folder, skeleton, seed
        self.lines: list[str] = []
        self.evaluated: list[NetSpec] = []

    def __call__(self, mnas: MnasSearch, score: Callable = accuracy) -> MnasResult:
        def counted(spec: NetSpec, seed: int) -> float:
            self.evaluated.append(spec)
            return score(spec, seed)

        return mnas.search(
            self.skeleton,
            counted,
            latency=latency,
            history=SearchHistory(self.folder / "history.jsonl", identity={"method": "mnas"}),
            folder=self.folder,
            executor=SerialExecutor(),
            seed=self.seed,
            log=self.lines.append,
        )

    def rows(self) -> list[dict]:
        lines = (self.folder / "history.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines[1:]]


def killed_after(trials: int) -> Callable:
    left = [trials]

    def score(spec: NetSpec, seed: int) -> float:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return accuracy(spec, seed)

    return score


@pytest.mark.parametrize(
    "strategy", [Controller, RandomSearch, partial(Evolution, population=8, tournament=3)]
)
@pytest.mark.parametrize("trials", [0, 3, 4, 9])
def test_a_killed_search_resumes_to_the_same_result(tmp_path: Path, strategy: Callable, trials: int) -> None:
    whole, cut, again = Search(tmp_path / "whole"), Search(tmp_path / "cut"), Search(tmp_path / "cut")
    expected = whole(method(strategy=strategy))
    with pytest.raises(KeyboardInterrupt):
        cut(method(strategy=strategy), killed_after(trials))
    resumed = again(method(strategy=strategy))
    assert resumed.trials == expected.trials
    assert resumed.best == expected.best
    assert again.evaluated == whole.evaluated[trials:]
    states = [checkpoint.read(tmp_path / name / "strategy.safetensors")[0] for name in ("whole", "cut")]
    assert states[0].keys() == states[1].keys()
    assert all(states[0][name].equal(states[1][name]) for name in states[0])


@pytest.mark.parametrize("damage", ["gone", "damaged", "ahead"])
def test_the_history_suffices_if_the_state_is_lost(tmp_path: Path, damage: str) -> None:
    expected = Search(tmp_path / "whole")(method())
    with pytest.raises(KeyboardInterrupt):
        Search(tmp_path / "cut")(method(), killed_after(14))
    state = tmp_path / "cut/strategy.safetensors"
    checkpoint.previous(state).unlink()
    if damage == "gone":
        state.unlink()
    elif damage == "damaged":
        state.write_bytes(state.read_bytes()[:-5])
    else:
        state.write_bytes((tmp_path / "whole/strategy.safetensors").read_bytes())
    assert Search(tmp_path / "cut")(method()).trials == expected.trials


@pytest.mark.parametrize("key", ["number", "tokens", "spec", "latency_ms", "reward"])
def test_a_trial_without_one_of_its_keys_is_reported(tmp_path: Path, key: str) -> None:
    search = Search(tmp_path)
    search(method(samples=4))
    path = tmp_path / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[2][key]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"history.jsonl: the record of a trial is damaged .*{key}"):
        search(method(samples=8))


def test_a_search_with_more_samples_continues_where_it_ended(tmp_path: Path) -> None:
    expected = Search(tmp_path / "whole")(method(samples=20))
    Search(tmp_path / "short")(method(samples=12))
    longer = Search(tmp_path / "short")
    assert longer(method(samples=20)).trials == expected.trials
    assert len(longer.evaluated) <= 8
    assert Search(tmp_path / "short")(method(samples=12)).trials == expected.trials[:12]


def test_recorded_numbers_can_be_recomputed(tmp_path: Path) -> None:
    search = Search(tmp_path, seed=5)
    result = search(method(w=-0.15))
    rows = search.rows()
    assert [row["number"] for row in rows] == list(range(20))
    for row, trial in zip(rows, result.trials, strict=True):
        spec = NetSpec.from_dict(row["spec"])
        assert MnasSpace(SKELETON).decode(row["tokens"]) == spec == trial.spec
        assert row["seed"] == 5
        assert row["metric"] == accuracy(spec, 5)
        assert row["latency_ms"] == latency(spec)
        assert row["reward"] == pytest.approx(row["metric"] * (row["latency_ms"] / 20) ** -0.15)
        assert row["seconds"] >= 0
    assert result.best.reward == max(row["reward"] for row in rows)
    assert [trial.reward for trial in result.top(5)] == sorted(
        (t.reward for t in result.top(5)), reverse=True
    )


def test_a_failed_trial_is_recorded_and_the_search_continues(tmp_path: Path) -> None:
    def score(spec: NetSpec, seed: int) -> float:
        if len(spec.blocks) % 2:
            raise RuntimeError("out of\nmemory")
        return accuracy(spec, seed) if spec.blocks[0].kernel == 3 else float("nan")

    search = Search(tmp_path)
    result = search(method(), score)
    failed = [row for row in search.rows() if row["status"] == "failed"]
    errors = {row["error"] for row in failed}
    assert errors == {"RuntimeError: out of memory", "the accuracy is nan"}
    assert all(row["reward"] == 0.0 for row in failed)
    assert len(result.trials) == 20
    assert result.best.scored
    assert [t.number for t in result.trials if not t.scored] == sorted(row["number"] for row in failed)
    assert any("out of memory" in line for line in search.lines)
    again = Search(tmp_path)(method(), killed_after(0))
    assert repr(again.trials) == repr(result.trials)  # NaN is not equal to itself


def test_a_search_in_which_all_trials_fail_says_why(tmp_path: Path) -> None:
    def score(spec: NetSpec, seed: int) -> float:
        raise ValueError("no such data")

    with pytest.raises(
        UserError, match="all of the first 4 trials failed; the first one: ValueError: no such data"
    ):
        Search(tmp_path)(method(), score)


def test_equal_networks_are_trained_once(tmp_path: Path) -> None:
    mnas = method(samples=24, strategy=RandomSearch)
    small = {"kernels": (3,), "expansions": (3,), "se": (False,), "skip": (True,), "filters": (1.0,)}
    mnas.space = partial(MnasSpace, **small, layers=(0, 1))
    search = Search(tmp_path, skeleton=with_width(SMALL, 0.35))
    result = search(mnas)
    distinct = {trial.spec for trial in result.trials}
    assert len(search.evaluated) == len(distinct) < 24
    assert set(search.evaluated) == distinct
    rows = {row["number"]: row for row in search.rows()}
    copies = [row for row in rows.values() if "same_as" in row]
    assert len(copies) == 24 - len(distinct)
    for row in copies:
        first = rows[row["same_as"]]
        assert "same_as" not in first
        assert all(row[key] == first[key] for key in ("spec", "metric", "latency_ms", "reward"))
    assert len(result.top(100)) == len(distinct)
    assert any("same network as trial" in line for line in search.lines)


def test_the_best_so_far_is_shown_after_every_batch(tmp_path: Path) -> None:
    search = Search(tmp_path)
    result = search(method())
    tables = [line for line in search.lines if "mean reward" in line]
    assert len(tables) == 5
    best = tables[-1].splitlines()[1]
    trial = result.best
    assert best.split()[0] == f"{trial.reward:.4f}"
    assert f"accuracy {trial.accuracy:.4f}" in best
    assert best.endswith(result.space.describe(trial.tokens))
    assert "10^" in search.lines[0]


def test_a_history_of_another_search_is_rejected(tmp_path: Path) -> None:
    Search(tmp_path)(method())
    (tmp_path / "strategy.safetensors").unlink()
    checkpoint.previous(tmp_path / "strategy.safetensors").unlink()
    with pytest.raises(UserError, match="trial 1 has a different architecture than this search proposes"):
        Search(tmp_path, seed=1)(method())


def test_a_latency_that_the_table_lacks_ends_the_search(tmp_path: Path) -> None:
    def lacking(spec: NetSpec) -> float:
        raise UserError("the table has no entry for block 16->48->24")

    with pytest.raises(UserError, match="no entry for block"):
        method().search(
            SKELETON,
            accuracy,
            latency=lacking,
            history=SearchHistory(tmp_path / "history.jsonl", identity={}),
            folder=tmp_path,
            executor=SerialExecutor(),
            log=lambda _: None,
        )


def test_a_steeper_w_finds_faster_networks(tmp_path: Path) -> None:
    latencies = {}
    for w in (-0.07, -0.6):
        mnas = method(samples=160, batch=8, w=w)
        result = Search(tmp_path / str(w))(mnas)
        latencies[w] = sum(trial.latency_ms for trial in result.trials[-40:]) / 40
    assert latencies[-0.6] < 0.8 * latencies[-0.07]


@pytest.mark.slow
def test_processes_give_the_same_result(tmp_path: Path) -> None:
    def trials(folder: Path, executor: Executor) -> tuple[SampledTrial, ...]:
        history = SearchHistory(folder / "history.jsonl", identity={})
        result = method().search(
            SKELETON,
            accuracy,
            latency=latency,
            history=history,
            folder=folder,
            executor=executor,
            log=lambda _: None,
        )
        return result.trials

    serial = trials(tmp_path / "serial", SerialExecutor())
    assert trials(tmp_path / "processes", ProcessExecutor(workers=2)) == serial


def test_an_option_of_the_space_that_is_out_of_range_is_named(tmp_path: Path) -> None:
    mnas = method()
    mnas.space = partial(MnasSpace, kernels=(3, 4))
    with pytest.raises(UserError, match=r"method\.space: kernels must be odd"):
        Search(tmp_path)(mnas)


def test_the_identity_differs_between_searches_but_not_with_samples() -> None:
    identity = method().identity()
    assert identity == json.loads(json.dumps(identity))
    assert method(samples=99).identity() == identity
    assert identity["reward"] == {"target_ms": 20.0, "w": -0.07, "form": "soft"}
    assert identity["strategy"] == {"name": "Controller"}
    others = [method(batch=5), method(w=-0.15), method(strategy=partial(Controller, lr=0.1))]
    assert all(other.identity() != identity for other in others)


@pytest.mark.parametrize("name", ["samples", "steps", "batch"])
def test_options_are_checked(name: str) -> None:
    options = {"samples": 1, "reward": Reward(target_ms=1), "space": MnasSpace, "strategy": Controller}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        MnasSearch(**{**options, name: 0})


@pytest.mark.parametrize(
    ("name", "strategy"), [("mnas", Controller), ("evolution", Evolution), ("random", RandomSearch)]
)
def test_the_configured_methods_can_be_built_and_search(tmp_path: Path, name: str, strategy: type) -> None:
    config = compose_config(
        "search", [f"method={name}", "target_ms=20", "samples=6", "method.reward.w=-0.15"]
    )
    mnas = build(config.method, key="method")
    assert (mnas.samples, mnas.reward) == (6, Reward(target_ms=20, w=-0.15))
    assert type(mnas.strategy((2, 3), seed=0)) is strategy
    assert mnas.space(SKELETON).num_options == MnasSpace(SKELETON).num_options
    assert len(Search(tmp_path)(mnas).trials) == 6
