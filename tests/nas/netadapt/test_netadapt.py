"""The search on a problem whose answer is known: some expansions are worth a lot, others nothing."""

import json
from dataclasses import replace

import pytest
import torch

from deploy.latency_table.table import NotInTable
from engine.errors import UserError
from engine.run import checkpoint
from nas.executors import Serial
from nas.history import History
from nas.netadapt import report
from nas.netadapt.search import NetAdapt
from tests.nas.problems import TINY, OpenToy, tiny_classifier

WORTH = (("block2", 0.3), ("block3", 0.001), ("block4", 0.3))


def latency(spec):
    return float(sum(block.exp for block in spec.blocks) + 2 * sum(block.out for block in spec.blocks))


def search(
    folder, *, worth=WORTH, crash=None, executor=None, log="", say=lambda line: None, seed=0, **options
):
    options = {"budget": 0.88, "steps": 3, "delta": 0.03, "widths": 0, **options}
    method = NetAdapt(**options)
    return method.search(
        OpenToy(worth=worth, crash=crash, log=log),
        latency=latency,
        history=History(folder / "history.jsonl", identity={"method": vars(method), "seed": seed}),
        folder=folder / "weights",
        executor=executor or Serial(),
        seed=seed,
        say=say,
    )


def rows(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def same(first, second):
    return [(p.spec, p.latency_ms, p.score) for p in first.trajectory] == [
        (p.spec, p.latency_ms, p.score) for p in second.trajectory
    ]


def test_what_is_worth_little_is_cut(tmp_path):
    lines = []
    result = search(tmp_path, say=lines.append)
    assert result.seed.spec == TINY
    assert result.found.latency_ms <= 0.88 * latency(TINY)
    assert result.found.spec.blocks[1].exp == 64  # worth a lot
    assert result.found.spec.blocks[3].exp == 96
    assert result.found.spec.blocks[2].exp < 72
    for before, after in zip(result.trajectory, result.trajectory[1:], strict=False):
        assert before.latency_ms - after.latency_ms >= 0.03 * latency(TINY)
    assert sum(line.startswith("step ") for line in lines) == len(result.trajectory)  # the table of the best


def test_the_weights_that_are_kept_are_those_of_the_network(tmp_path):
    result = search(tmp_path)
    for point in result.trajectory:
        state, metadata = checkpoint.inference_weights(point.weights)
        tiny_classifier(point.spec).load_state_dict(state)
        assert metadata["spec"] == point.spec.to_dict()
    kept = {path.name for path in (tmp_path / "weights").iterdir()}
    assert kept == {point.weights.name for point in result.trajectory}


def test_weights_come_from_the_step_before(tmp_path):
    result = search(tmp_path, steps=0, budget=0.9)
    before = checkpoint.inference_weights(result.seed.weights)[0]["backbone.stem.conv.weight"]
    after = checkpoint.inference_weights(result.found.weights)[0]["backbone.stem.conv.weight"]
    found = {tuple(row) for row in after.flatten(1).tolist()}
    # The toy's training moves each weight by 1e-3 or so per step of the search.
    assert all(min(torch.dist(torch.tensor(row), old) for old in before.flatten(1)) < 0.1 for row in found)


def test_both_criteria(tmp_path):
    """Block 2 loses little for a small saving; block 4 twice that for a saving four times as large."""
    costs = {"block2": 1.0, "block4": 4.0}

    def uneven(spec):
        other = sum(block.out for block in spec.blocks) / 100
        return (
            100 + costs["block2"] * spec.blocks[1].exp / 8 + costs["block4"] * spec.blocks[3].exp / 8 + other
        )

    def first(criterion):
        method = NetAdapt(budget=0.995, steps=0, delta=0.005, widths=0, criterion=criterion)
        folder = tmp_path / criterion
        result = method.search(
            # Per cut of 8 channels: 0.01 for block 2, 0.02 for block 4.
            OpenToy(worth=(("block2", 0.08), ("block4", 0.24))),
            latency=uneven,
            history=History(folder / "history.jsonl", identity={}),
            folder=folder / "weights",
            executor=Serial(),
            say=lambda line: None,
        )
        return result.trajectory[1].change

    assert first("ratio") == "block4.exp 96 -> 88"
    assert first("drop") == "block2.exp 64 -> 56"


def test_all_trials_of_a_step_see_the_same_samples(tmp_path):
    log = tmp_path / "log"
    search(tmp_path, log=str(log), seed=7)
    seen = [line.split() for line in log.read_text().splitlines()]
    assert {steps for steps, _ in seen} == {"3"}
    by_step = {}
    for row in rows(tmp_path):
        if row["kind"] == "trial":
            by_step.setdefault(row["step"], set()).add(row["seed"])
    assert all(len(seeds) == 1 for seeds in by_step.values())
    assert len(set.union(*by_step.values())) == len(by_step)


class Killed(BaseException):
    """As a signal: no error of a trial."""


class KilledAfter:
    """Serial, until so many trials are done."""

    def __init__(self, trials):
        self.left = trials

    def __call__(self, work, jobs):
        for outcome in Serial()(work, jobs):
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield outcome


@pytest.mark.parametrize("trials", [0, 3, 7, 11])
def test_a_killed_search_goes_on_to_the_same_result(tmp_path, trials):
    whole = search(tmp_path / "whole", widths=1)
    with pytest.raises(Killed):
        search(tmp_path / "killed", widths=1, executor=KilledAfter(trials))
    log = tmp_path / "log"
    going_on = search(tmp_path / "killed", widths=1, log=str(log))
    assert same(whole, going_on)
    assert [w.score for w in whole.widths] == [w.score for w in going_on.widths]
    again = len(log.read_text().splitlines())
    assert again == sum(row["kind"] in ("trial", "width") for row in rows(tmp_path / "whole")) - trials


def test_a_finished_search_is_read_not_repeated(tmp_path):
    first, log = search(tmp_path), tmp_path / "log"
    assert same(first, search(tmp_path, log=str(log)))
    assert not log.exists()


def test_weights_that_a_kill_has_lost_are_made_anew(tmp_path):
    first = search(tmp_path)
    kept = first.found.weights.read_bytes()
    first.found.weights.unlink()
    assert same(first, search(tmp_path))
    assert first.found.weights.read_bytes() == kept


def test_weights_of_a_search_whose_history_was_deleted_are_not_taken(tmp_path):
    whole = search(tmp_path / "whole")
    search(tmp_path / "again", worth=(("block2", 0.001), ("block3", 0.3), ("block4", 0.3)))
    (tmp_path / "again" / "history.jsonl").unlink()
    again = search(tmp_path / "again")
    assert same(whole, again)
    for first, second in zip(whole.trajectory, again.trajectory, strict=True):
        assert first.weights.read_bytes() == second.weights.read_bytes()


def test_a_crashed_trial_is_recorded_and_the_search_goes_on(tmp_path):
    lines = []
    result = search(tmp_path, crash=(3, 56), say=lines.append)
    failed = [row for row in rows(tmp_path) if row.get("status") == "failed"]
    assert failed
    assert all(row["error"] == "RuntimeError: out of luck" for row in failed)
    assert any("RuntimeError: out of luck" in line for line in lines)
    assert result.found.latency_ms <= 0.88 * latency(TINY)
    assert all(point.spec.blocks[2].exp != 56 for point in result.trajectory)


def test_a_step_of_nothing_but_crashes_ends_the_search(tmp_path):
    class Broken:
        def __call__(self, work, jobs):
            for number, _ in enumerate(jobs):
                yield number, {"status": "failed", "error": "OSError: no disk"}

    with pytest.raises(UserError, match="all trials of step 1 failed, the first with OSError: no disk"):
        search(tmp_path, executor=Broken())
    assert same(search(tmp_path), search(tmp_path / "whole"))  # once the disk is back


def test_a_budget_that_cannot_be_reached(tmp_path):
    with pytest.raises(UserError, match=r"budget=0.05 cannot be reached: at \d+"):
        search(tmp_path, budget=0.05, delta=0.1)


def test_a_table_of_the_seed_s_layers_alone_is_blamed(tmp_path):
    def table(spec):
        if spec != TINY:
            raise NotInTable("the latency table has no entry for block 2")
        return latency(spec)

    method = NetAdapt(budget=0.88, steps=3, delta=0.03, widths=0)
    with pytest.raises(UserError, match=r"at 100.0% narrower layers are not in the table: .* block 2"):
        method.search(
            OpenToy(worth=WORTH),
            latency=table,
            history=History(tmp_path / "history.jsonl", identity={}),
            folder=tmp_path / "weights",
            executor=Serial(),
            say=lambda line: None,
        )


def test_a_changed_table_does_not_go_on_with_the_old_trials(tmp_path):
    method = NetAdapt(budget=0.88, steps=3, delta=0.03, widths=0)
    search(tmp_path)
    with pytest.raises(UserError, match="the latency table or the run has changed"):
        method.search(
            OpenToy(worth=WORTH),
            latency=lambda spec: latency(spec) - spec.blocks[1].exp / 2,
            history=History(tmp_path / "history.jsonl", identity={"method": vars(method), "seed": 0}),
            folder=tmp_path / "weights",
            executor=Serial(),
            say=lambda line: None,
        )


def test_width_multipliers_are_tuned_as_long_at_the_same_latency(tmp_path):
    log = tmp_path / "log"
    result = search(tmp_path, widths=2, log=str(log))
    half, full = result.widths
    assert full.latency_ms <= result.found.latency_ms
    assert result.found.latency_ms < half.latency_ms <= (result.seed.latency_ms + result.found.latency_ms) / 2
    steps = [int(line.split()[0]) for line in log.read_text().splitlines()[-2:]]
    assert steps == [3 * round(result.found.step / 2), 3 * result.found.step]


def test_width_multipliers_keep_their_weights(tmp_path):
    options = {"widths": 2, "steps": 0}  # as many steps for both: their files are told apart all the same
    points = search(tmp_path, **options).widths
    weights = [checkpoint.inference_weights(point.weights)[0] for point in points]
    for point, state in zip(points, weights, strict=True):
        checkpoint.load_strict(tiny_classifier(point.spec), state)
        point.weights.unlink()  # by a kill, say: the trials are repeated
    again = search(tmp_path, **options).widths
    assert [point.score for point in again] == [point.score for point in points]
    for point, state in zip(again, weights, strict=True):
        repeated = checkpoint.inference_weights(point.weights)[0]
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
        NetAdapt(**{"budget": 0.5, option: value})


def test_the_report_says_all(tmp_path):
    result = search(tmp_path, widths=1)
    trials = [row for row in rows(tmp_path) if row["kind"] == "trial"]
    other = replace(result.seed, change="runs/half", latency_ms=300.0)
    one = report.Measured(name="seed", predicted_ms=9.0, measured_ms=10.0)
    assert one.error == pytest.approx(-0.1)
    report.write(
        tmp_path, result, metric="miou", trials=trials, measured=[one], others=[other], commands=["python x"]
    )
    text = (tmp_path / "report.md").read_text()
    found = result.found.spec.blocks[2].exp
    for part in (
        f"72 -> **{found}**",
        "runs/half",
        "-10.0%",
        "python x",
        "all channels x",
        f"{len(trials)} trials",
    ):
        assert part in text
    assert (tmp_path / "trajectory.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # Ray takes its time to start
def test_ray_gives_the_same_result(tmp_path):
    ray = pytest.importorskip("ray")
    from nas.executors import Ray

    try:
        assert same(search(tmp_path / "serial"), search(tmp_path / "ray", executor=Ray()))
        crashed = search(tmp_path / "crash", crash=(3, 56), executor=Ray())
    finally:
        ray.shutdown()
    assert same(crashed, search(tmp_path / "serial crash", crash=(3, 56)))
