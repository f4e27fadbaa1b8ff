"""NetAdapt on a toy whose best network is known: some expansions are worth a lot, others nothing."""

import json
from dataclasses import replace

import pytest
import torch

from deploy.latency_table.table import NotInTable
from engine.errors import UserError
from engine.run import checkpoint
from nas.executors import ProcessExecutor, SerialExecutor
from nas.history import SearchHistory
from nas.netadapt.report import LatencyCheck, write_netadapt_report
from nas.netadapt.search import NetAdaptSearch
from tests.nas.toy_trainer import TINY, ToyTrainerFactory, tiny_classifier

WORTH = (("block2", 0.3), ("block3", 0.001), ("block4", 0.3))


def latency(spec):
    return float(sum(block.exp for block in spec.blocks) + 2 * sum(block.out for block in spec.blocks))


def search(
    folder, *, worth=WORTH, crash=None, executor=None, trial_log="", log=lambda line: None, seed=0, **options
):
    options = {"budget": 0.88, "steps": 3, "delta": 0.03, "widths": 0, **options}
    method = NetAdaptSearch(**options)
    return method.search(
        ToyTrainerFactory(worth=worth, crash=crash, log=trial_log),
        latency=latency,
        history=SearchHistory(folder / "history.jsonl", identity={"method": vars(method), "seed": seed}),
        folder=folder / "weights",
        executor=executor or SerialExecutor(),
        seed=seed,
        log=log,
    )


def rows(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def same(first, second):
    one, two = (
        [(network.spec, network.latency_ms, network.score) for network in result.trajectory]
        for result in (first, second)
    )
    return one == two


def test_expansions_that_are_worth_little_are_cut(tmp_path):
    lines = []
    result = search(tmp_path, log=lines.append)
    assert result.seed.spec == TINY
    assert result.final.latency_ms <= 0.88 * latency(TINY)
    assert result.final.spec.blocks[1].exp == 64  # worth a lot
    assert result.final.spec.blocks[3].exp == 96
    assert result.final.spec.blocks[2].exp < 72
    for before, after in zip(result.trajectory, result.trajectory[1:], strict=False):
        assert before.latency_ms - after.latency_ms >= 0.03 * latency(TINY)
    assert sum(line.startswith("step ") for line in lines) == len(
        result.trajectory
    )  # a row of progress per step


@pytest.mark.parametrize(("decay", "expected"), [(1.0, [232, 216, 200]), (0.5, [232, 216, 208, 200])])
def test_each_step_saves_a_share_of_the_latency_of_the_seed(tmp_path, decay, expected):
    """0.0345 of 232 ms are 8.004 ms: two cuts of 8 channels. Of 216 ms they would be 7.5 ms, one cut.

    With decay 0.5 the second step saves half of the first, 4.002 ms, and one cut is enough.
    """
    method = NetAdaptSearch(budget=0.87, steps=0, delta=0.0345, decay=decay, widths=0)
    result = method.search(
        ToyTrainerFactory(worth=WORTH),
        latency=lambda spec: float(sum(block.exp for block in spec.blocks[1:])),
        history=SearchHistory(tmp_path / "history.jsonl", identity={}),
        folder=tmp_path / "weights",
        executor=SerialExecutor(),
        log=lambda line: None,
    )
    assert [network.latency_ms for network in result.trajectory] == expected


def test_the_weights_of_the_chosen_networks_are_kept_and_fit(tmp_path):
    result = search(tmp_path)
    for network in result.trajectory:
        state, metadata = checkpoint.inference_weights(network.weights)
        tiny_classifier(network.spec).load_state_dict(state)
        assert metadata["spec"] == network.spec.to_dict()
    files = {path.name for path in (tmp_path / "weights").iterdir()}
    assert files == {network.weights.name for network in result.trajectory}


def test_weights_come_from_the_previous_step(tmp_path):
    result = search(tmp_path, steps=0, budget=0.9)
    before = checkpoint.inference_weights(result.seed.weights)[0]["backbone.stem.conv.weight"]
    after = checkpoint.inference_weights(result.final.weights)[0]["backbone.stem.conv.weight"]
    filters = {tuple(row) for row in after.flatten(1).tolist()}
    # The toy's training moves each weight by 1e-3 or so per step of the search.
    assert all(min(torch.dist(torch.tensor(row), old) for old in before.flatten(1)) < 0.1 for row in filters)


def test_the_criteria_choose_differently(tmp_path):
    """Block 2 loses little for a small saving; block 4 loses twice that, for four times the saving."""
    costs = {"block2": 1.0, "block4": 4.0}

    def uneven(spec):
        other = sum(block.out for block in spec.blocks) / 100
        return (
            100 + costs["block2"] * spec.blocks[1].exp / 8 + costs["block4"] * spec.blocks[3].exp / 8 + other
        )

    def first(criterion):
        method = NetAdaptSearch(budget=0.995, steps=0, delta=0.005, widths=0, criterion=criterion)
        folder = tmp_path / criterion
        result = method.search(
            # Per cut of 8 channels: 0.01 for block 2, 0.02 for block 4.
            ToyTrainerFactory(worth=(("block2", 0.08), ("block4", 0.24))),
            latency=uneven,
            history=SearchHistory(folder / "history.jsonl", identity={}),
            folder=folder / "weights",
            executor=SerialExecutor(),
            log=lambda line: None,
        )
        return result.trajectory[1].change

    assert first("ratio") == "block4.exp 96 -> 88"
    assert first("drop") == "block2.exp 64 -> 56"


def test_all_trials_of_a_step_see_the_same_samples(tmp_path):
    log = tmp_path / "log"
    search(tmp_path, trial_log=str(log), seed=7)
    seen = [line.split() for line in log.read_text().splitlines()]
    assert {steps for steps, _ in seen} == {"3"}
    by_step = {}
    for row in rows(tmp_path):
        if row["kind"] == "trial":
            by_step.setdefault(row["step"], set()).add(row["seed"])
    assert all(len(seeds) == 1 for seeds in by_step.values())
    assert len(set.union(*by_step.values())) == len(by_step)


class Killed(BaseException):
    """Like a signal, not an error of a trial."""


class KilledAfter:
    """Serial, until this many trials are done."""

    def __init__(self, trials):
        self.left = trials

    def __call__(self, work, jobs):
        for outcome in SerialExecutor()(work, jobs):
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield outcome


@pytest.mark.parametrize("trials", [0, 3, 7, 11])
def test_a_killed_search_resumes_to_the_same_result(tmp_path, trials):
    whole = search(tmp_path / "whole", widths=1)
    with pytest.raises(Killed):
        search(tmp_path / "killed", widths=1, executor=KilledAfter(trials))
    log = tmp_path / "log"
    resumed = search(tmp_path / "killed", widths=1, trial_log=str(log))
    assert same(whole, resumed)
    assert [n.score for n in whole.width_multipliers] == [n.score for n in resumed.width_multipliers]
    again = len(log.read_text().splitlines())
    assert again == sum(row["kind"] in ("trial", "width") for row in rows(tmp_path / "whole")) - trials


def test_a_finished_search_is_not_repeated(tmp_path):
    first, log = search(tmp_path), tmp_path / "log"
    assert same(first, search(tmp_path, trial_log=str(log)))
    assert not log.exists()


def test_weights_that_a_kill_has_lost_are_trained_again(tmp_path):
    first = search(tmp_path)
    before = first.final.weights.read_bytes()
    first.final.weights.unlink()
    assert same(first, search(tmp_path))
    assert first.final.weights.read_bytes() == before


@pytest.mark.weekly
def test_weights_of_a_search_whose_history_was_deleted_are_not_used(tmp_path):
    whole = search(tmp_path / "whole")
    search(tmp_path / "again", worth=(("block2", 0.001), ("block3", 0.3), ("block4", 0.3)))
    (tmp_path / "again" / "history.jsonl").unlink()
    again = search(tmp_path / "again")
    assert same(whole, again)
    for first, second in zip(whole.trajectory, again.trajectory, strict=True):
        assert first.weights.read_bytes() == second.weights.read_bytes()


def test_a_failed_trial_is_recorded_and_the_search_continues(tmp_path):
    lines = []
    result = search(tmp_path, crash=(3, 56), log=lines.append)
    failed = [row for row in rows(tmp_path) if row.get("status") == "failed"]
    assert failed
    assert all(row["error"] == "RuntimeError: out of luck" for row in failed)
    assert any("RuntimeError: out of luck" in line for line in lines)
    assert result.final.latency_ms <= 0.88 * latency(TINY)
    assert all(point.spec.blocks[2].exp != 56 for point in result.trajectory)


def test_a_step_in_which_all_trials_fail_ends_the_search(tmp_path):
    class Broken:
        def __call__(self, work, jobs):
            for number, _ in enumerate(jobs):
                yield number, {"status": "failed", "error": "OSError: no disk"}

    with pytest.raises(UserError, match="all trials of step 1 failed; the first one: OSError: no disk"):
        search(tmp_path, executor=Broken())
    assert same(search(tmp_path), search(tmp_path / "whole"))  # with the disk back


def test_a_budget_that_cannot_be_reached_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"budget=0.05 cannot be reached: at \d+"):
        search(tmp_path, budget=0.05, delta=0.1)


def test_a_table_without_narrower_layers_is_named_as_the_cause(tmp_path):
    def table(spec):
        if spec != TINY:
            raise NotInTable("the latency table has no entry for block 2")
        return latency(spec)

    method = NetAdaptSearch(budget=0.88, steps=3, delta=0.03, widths=0)
    with pytest.raises(
        UserError,
        match=r"at 100.0% of the seed's latency, narrower layers are not in the latency table: .* block 2",
    ):
        method.search(
            ToyTrainerFactory(worth=WORTH),
            latency=table,
            history=SearchHistory(tmp_path / "history.jsonl", identity={}),
            folder=tmp_path / "weights",
            executor=SerialExecutor(),
            log=lambda line: None,
        )


def test_a_search_with_a_changed_table_does_not_resume(tmp_path):
    method = NetAdaptSearch(budget=0.88, steps=3, delta=0.03, widths=0)
    search(tmp_path)
    with pytest.raises(UserError, match="the latency table or the run has changed"):
        method.search(
            ToyTrainerFactory(worth=WORTH),
            latency=lambda spec: latency(spec) - spec.blocks[1].exp / 2,
            history=SearchHistory(tmp_path / "history.jsonl", identity={"method": vars(method), "seed": 0}),
            folder=tmp_path / "weights",
            executor=SerialExecutor(),
            log=lambda line: None,
        )


@pytest.mark.weekly
def test_width_multipliers_have_as_many_steps_and_the_same_latency(tmp_path):
    log = tmp_path / "log"
    result = search(tmp_path, widths=2, trial_log=str(log))
    half, full = result.width_multipliers
    assert full.latency_ms <= result.final.latency_ms
    assert result.final.latency_ms < half.latency_ms <= (result.seed.latency_ms + result.final.latency_ms) / 2
    steps = [int(line.split()[0]) for line in log.read_text().splitlines()[-2:]]
    assert steps == [3 * round(result.final.step / 2), 3 * result.final.step]


@pytest.mark.weekly
def test_width_multipliers_keep_their_weights(tmp_path):
    options = {
        "widths": 2,
        "steps": 0,
    }  # as many steps for both, and yet a file for each
    networks = search(tmp_path, **options).width_multipliers
    weights = [checkpoint.inference_weights(network.weights)[0] for network in networks]
    for network, state in zip(networks, weights, strict=True):
        checkpoint.load_strict(tiny_classifier(network.spec), state)
        network.weights.unlink()  # lost in a kill: the trials are repeated
    again = search(tmp_path, **options).width_multipliers
    assert [network.score for network in again] == [network.score for network in networks]
    for network, state in zip(again, weights, strict=True):
        repeated = checkpoint.inference_weights(network.weights)[0]
        assert all(torch.equal(state[name], repeated[name]) for name in state)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("budget", 1.0),
        ("budget", 0),
        ("delta", 0.0),
        ("decay", 1.5),
        ("steps", -1),
        ("divisor", 0),
        ("criterion", "x"),
    ],
)
def test_options_are_checked(option, value):
    with pytest.raises(ValueError, match=option):
        NetAdaptSearch(**{"budget": 0.5, option: value})


@pytest.mark.slow
def test_the_report_is_complete(tmp_path):
    result = search(tmp_path, widths=1)
    trials = [row for row in rows(tmp_path) if row["kind"] == "trial"]
    other = replace(result.seed, change="runs/half", latency_ms=300.0)
    check = LatencyCheck(name="seed", predicted_ms=9.0, measured_ms=10.0)
    assert check.error == pytest.approx(-0.1)
    write_netadapt_report(
        tmp_path,
        result,
        metric="miou",
        trials=trials,
        latency_checks=[check],
        other_runs=[other],
        commands=["python x"],
    )
    text = (tmp_path / "report.md").read_text()
    channels = result.final.spec.blocks[2].exp
    for part in (
        f"72 -> **{channels}**",
        "runs/half",
        "-10.0%",
        "python x",
        "all channels x",
        f"{len(trials)} trials",
    ):
        assert part in text
    assert (tmp_path / "trajectory.png").read_bytes().startswith(b"\x89PNG")


def assert_same_as_serial(folder, executor):
    """Trials may finish in another order, but have the same results, and leave the same weights."""
    for name, crash in (("all well", None), ("a failure", (3, 56))):
        serial = search(folder / name, crash=crash)
        other = search(folder / f"{name} again", crash=crash, executor=executor)
        assert same(serial, other)
        for first, second in zip(serial.trajectory, other.trajectory, strict=True):
            assert first.weights.read_bytes() == second.weights.read_bytes()
        assert sorted(untimed(folder / name)) == sorted(untimed(folder / f"{name} again"))


def untimed(folder):
    return [json.dumps({key: row[key] for key in row if key != "seconds"}) for row in rows(folder)]


@pytest.mark.weekly
def test_processes_give_the_same_result(tmp_path):
    assert_same_as_serial(tmp_path, ProcessExecutor(workers=2))


@pytest.mark.slow  # Ray takes long to start
def test_ray_gives_the_same_result(tmp_path):
    ray = pytest.importorskip("ray")
    from nas.executors import RayExecutor

    try:
        assert_same_as_serial(tmp_path, RayExecutor())
    finally:
        ray.shutdown()
