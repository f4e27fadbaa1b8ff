"""What a step sees: a pure function of the step, whatever the number of workers and processes."""

import itertools
import os
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.loader import TrainingData, collate, loader
from engine.data.sample_stream import Draw, Shard, Stream, draw_seed
from engine.errors import UserError
from tests.engine.toy import Pictures


def draws(stream, steps):
    """The draws of `steps` steps, flat."""
    batches = itertools.islice(iter(stream), steps * stream.micro_batches)
    return [draw for batch in batches for draw in batch]


@pytest.mark.parametrize(("num_samples", "batch"), [(10, 4), (3, 8), (1, 4), (7, 7), (5, 1)])
def test_every_epoch_is_a_permutation_and_no_sample_is_dropped(num_samples, batch):
    drawn = draws(Stream(num_samples=num_samples, batch=batch, seed=3), steps=3 * num_samples)
    epochs = [drawn[i : i + num_samples] for i in range(0, 3 * batch * num_samples, num_samples)]
    for number, epoch in enumerate(epochs):
        assert {draw.epoch for draw in epoch} == {number}
        assert sorted(draw.index for draw in epoch) == list(range(num_samples))
    if num_samples > 4:
        assert len({tuple(draw.index for draw in epoch) for epoch in epochs}) > 1


def test_the_order_depends_on_the_seed():
    one, same, other = (draws(Stream(num_samples=20, batch=4, seed=s), 5) for s in (1, 1, 2))
    assert one == same != other


@given(first_step=st.integers(0, 300), num_samples=st.integers(1, 23), batch=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_stream_that_starts_later_is_the_rest_of_the_stream(first_step, num_samples, batch):
    whole = Stream(num_samples=num_samples, batch=batch, seed=7)
    later = Stream(num_samples=num_samples, batch=batch, seed=7, first_step=first_step)
    expected = [draw for step in range(first_step, first_step + 4) for draw in whole.step_batches(step)[0]]
    assert draws(later, 4) == expected


@given(world=st.integers(1, 4), micro=st.integers(1, 3), size=st.integers(1, 3), step=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_processes_and_micro_batches_part_the_batch(world, micro, size, step):
    shared = {"num_samples": 11, "batch": world * micro * size, "seed": 5}
    parts = [
        Stream(**shared, micro_batches=micro, rank=rank, world_size=world).step_batches(step)
        for rank in range(world)
    ]
    assert all(len(batches) == micro and {len(b) for b in batches} == {size} for batches in parts)
    flat = [draw for batches in parts for batch in batches for draw in batch]
    assert flat == Stream(**shared).step_batches(step)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0, "batch": 1}, "training split is empty"),
        ({"num_samples": 5, "batch": 6, "world_size": 4}, "trainer.batch=6 must be a multiple of .* = 4"),
        ({"num_samples": 5, "batch": 4, "micro_batches": 3}, "must be a multiple"),
    ],
)
def test_impossible_batches_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Stream(seed=0, **options)


@given(size=st.integers(0, 40), world=st.integers(1, 7), batch=st.integers(1, 5))
def test_shards_hold_every_sample_once(size, world, batch):
    shards = [Shard(num_samples=size, batch=batch, rank=rank, world_size=world) for rank in range(world)]
    dealt = [draw.index for shard in shards for part in shard for draw in part]
    assert sorted(dealt) == list(range(size))
    assert all(len(list(shard)) == len(shard) for shard in shards)


def test_a_draws_seed_depends_on_seed_epoch_and_index():
    seeds = {draw_seed(s, Draw(i, e)) for s in range(4) for e in range(5) for i in range(6)}
    assert len(seeds) == 4 * 5 * 6
    assert draw_seed(1, Draw(2, 3)) == draw_seed(1, Draw(2, 3)) < 2**32


def batches(feed, workers, first_step=0, count=6):
    feed = TrainingData(train_set=feed, eval_set=feed, seed=1, workers=workers)
    made = feed.train_batches(first_step, batch=3, micro_batches=1, rank=0, world_size=1, pin=False)
    return list(itertools.islice(made, count))


def same(one, other):
    return all(torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


def test_any_number_of_workers_and_any_start_see_the_same_pixels():
    alone = batches(Pictures(5), workers=0)
    assert same(alone, batches(Pictures(5), workers=2))
    assert same(alone[2:], batches(Pictures(5), workers=2, first_step=2, count=4))


def test_augmentation_differs_between_epochs():
    # The trap of copied generators: every worker, or every epoch, draws the same.
    seen = [batch["image"] for batch in batches(Pictures(3), workers=2, count=4)]
    pictures = torch.cat(seen).flatten(1)
    assert len({tuple(picture.tolist()) for picture in pictures}) == len(pictures)


class Group(Pictures):
    """What a worker is to a signal: the group it is in, and whether Ctrl-C is ignored."""

    def __getitem__(self, draw):
        return {"group": os.getpgrp(), "deaf": signal.getsignal(signal.SIGINT) == signal.SIG_IGN}


def test_signals_to_the_process_group_do_not_reach_workers():
    worker = next(iter(loader(Group(), Shard(num_samples=1), workers=1)))
    assert worker["group"].item() != os.getpgrp()
    assert worker["deaf"].item()


def test_images_of_different_sizes_do_not_fit_in_one_batch():
    samples = [{"image": torch.zeros(3, 4, size), "index": size} for size in (5, 6)]
    with pytest.raises(UserError, match=r"images of 4x5 and 4x6: set data\.eval_batch=1"):
        collate(samples)
    assert collate(samples[:1])["image"].shape == (1, 3, 4, 5)
