"""The samples of a step depend only on the step, for any number of workers and processes."""

import itertools
import os
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.loader import (
    BatchLoader,
    DataLoaders,
    EvaluationSampler,
    SampleKey,
    TrainingSampler,
    collate,
    sample_seed,
)
from engine.errors import UserError
from tests.engine.toy import NoiseImages


def keys_of(sampler, steps):
    """The sample keys of the first `steps` batches, as one list."""
    batches = itertools.islice(iter(sampler), steps * sampler.micro_batches)
    return [key for batch in batches for key in batch]


@pytest.mark.parametrize(("num_samples", "batch"), [(10, 4), (3, 8), (1, 4), (7, 7), (5, 1)])
def test_every_epoch_is_a_permutation_and_no_sample_is_dropped(num_samples, batch):
    keys = keys_of(TrainingSampler(num_samples=num_samples, batch=batch, seed=3), steps=3 * num_samples)
    epochs = [keys[i : i + num_samples] for i in range(0, 3 * batch * num_samples, num_samples)]
    for number, epoch in enumerate(epochs):
        assert {key.epoch for key in epoch} == {number}
        assert sorted(key.index for key in epoch) == list(range(num_samples))
    if num_samples > 4:
        assert len({tuple(key.index for key in epoch) for epoch in epochs}) > 1


def test_the_order_depends_on_the_seed():
    one, same, other = (keys_of(TrainingSampler(num_samples=20, batch=4, seed=s), 5) for s in (1, 1, 2))
    assert one == same != other


@given(first_step=st.integers(0, 300), num_samples=st.integers(1, 23), batch=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_sampler_can_start_at_any_step(first_step, num_samples, batch):
    whole = TrainingSampler(num_samples=num_samples, batch=batch, seed=7)
    later = TrainingSampler(num_samples=num_samples, batch=batch, seed=7, first_step=first_step)
    expected = [key for step in range(first_step, first_step + 4) for key in whole.step_batches(step)[0]]
    assert keys_of(later, 4) == expected


@given(world=st.integers(1, 4), micro=st.integers(1, 3), size=st.integers(1, 3), step=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_processes_and_micro_batches_divide_the_batch(world, micro, size, step):
    shared = {"num_samples": 11, "batch": world * micro * size, "seed": 5}
    parts = [
        TrainingSampler(**shared, micro_batches=micro, rank=rank, world_size=world).step_batches(step)
        for rank in range(world)
    ]
    assert all(len(batches) == micro and {len(b) for b in batches} == {size} for batches in parts)
    flat = [key for batches in parts for batch in batches for key in batch]
    assert flat == TrainingSampler(**shared).step_batches(step)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0, "batch": 1}, "training split is empty"),
        ({"num_samples": 5, "batch": 6, "world_size": 4}, "trainer.batch=6 must be a multiple of .* = 4"),
        ({"num_samples": 5, "batch": 4, "micro_batches": 3}, "must be a multiple"),
    ],
)
def test_invalid_batch_sizes_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingSampler(seed=0, **options)


@given(size=st.integers(0, 40), world=st.integers(1, 7), batch=st.integers(1, 5))
def test_all_processes_together_evaluate_every_sample_once(size, world, batch):
    samplers = [
        EvaluationSampler(num_samples=size, batch=batch, rank=rank, world_size=world) for rank in range(world)
    ]
    indices = [key.index for sampler in samplers for part in sampler for key in part]
    assert sorted(indices) == list(range(size))
    assert all(len(list(sampler)) == len(sampler) for sampler in samplers)


def test_a_samples_seed_depends_on_seed_epoch_and_index():
    seeds = {sample_seed(s, SampleKey(i, e)) for s in range(4) for e in range(5) for i in range(6)}
    assert len(seeds) == 4 * 5 * 6
    assert sample_seed(1, SampleKey(2, 3)) == sample_seed(1, SampleKey(2, 3)) < 2**32


def batches(images, workers, first_step=0, count=6):
    data = DataLoaders(train_set=images, eval_set=images, seed=1, workers=workers)
    stream = data.train_batches(first_step, batch=3, micro_batches=1, rank=0, world_size=1, pin=False)
    return list(itertools.islice(stream, count))


def same(one, other):
    return all(torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


def test_pixels_do_not_depend_on_the_number_of_workers_or_the_first_step():
    alone = batches(NoiseImages(5), workers=0)
    assert same(alone, batches(NoiseImages(5), workers=2))
    assert same(alone[2:], batches(NoiseImages(5), workers=2, first_step=2, count=4))


def test_augmentation_differs_between_epochs():
    # With copied generators, every worker or every epoch would produce the same ones.
    images = torch.cat([batch["image"] for batch in batches(NoiseImages(3), workers=2, count=4)]).flatten(1)
    assert len({tuple(image.tolist()) for image in images}) == len(images)


class SignalState(NoiseImages):
    """Samples contain the process group of the worker, and whether it ignores SIGINT."""

    def __getitem__(self, key):
        return {"group": os.getpgrp(), "ignores": signal.getsignal(signal.SIGINT) == signal.SIG_IGN}


def test_signals_to_the_process_group_do_not_reach_workers():
    worker = next(iter(BatchLoader(SignalState(), EvaluationSampler(num_samples=1), workers=1)))
    assert worker["group"].item() != os.getpgrp()
    assert worker["ignores"].item()


def test_more_workers_than_cpus_cause_no_warning(recwarn):
    workers = len(os.sched_getaffinity(0)) + 1
    next(iter(BatchLoader(NoiseImages(5), EvaluationSampler(num_samples=1), workers=workers)))
    assert not recwarn.list


class Failing(NoiseImages):
    """A split whose image 1 raises `error`."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def __getitem__(self, key):
        if key.index == 1:
            raise self.error
        return super().__getitem__(key)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_in_a_worker_is_raised_unchanged(workers):
    loader = iter(
        BatchLoader(Failing(UserError("a.png: truncated")), EvaluationSampler(num_samples=2), workers=workers)
    )
    assert next(loader)["index"].tolist() == [0]
    with pytest.raises(UserError) as caught:
        next(loader)
    assert type(caught.value) is UserError
    assert str(caught.value) == "a.png: truncated"


@pytest.mark.parametrize("workers", [0, 1])
def test_any_other_error_in_a_worker_is_raised(workers):
    loader = BatchLoader(
        Failing(LookupError("no such row")), EvaluationSampler(num_samples=2), workers=workers
    )
    with pytest.raises(LookupError, match="no such row"):
        list(loader)


def test_images_of_different_sizes_cannot_be_batched():
    samples = [{"image": torch.zeros(3, 4, size), "index": size} for size in (5, 6)]
    with pytest.raises(UserError, match=r"different sizes \(4x5 and 4x6\); set data\.eval_batch=1"):
        collate(samples)
    assert collate(samples[:1])["image"].shape == (1, 3, 4, 5)
