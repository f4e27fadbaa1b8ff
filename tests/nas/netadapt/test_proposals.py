import pytest

from deploy.latency_table.table import NotInTable
from nas.netadapt.proposals import propose
from nas.netadapt.pruning import units
from tests.nas.problems import TINY, tiny_classifier

STATE = tiny_classifier(TINY).state_dict()


def channels(spec):
    """A latency of one unit per expansion channel, and two per output channel of a block."""
    return float(sum(block.exp + 2 * block.out for block in spec.blocks) + spec.last)


def propose_at(target, latency=channels, divisor=8):
    found = propose(TINY, units(TINY, STATE), latency, target_ms=target, divisor=divisor)
    return {proposal.unit.name: proposal for proposal in found}


def test_each_unit_is_cut_as_little_as_saves_enough():
    found = propose_at(channels(TINY) - 20)
    # Multiples of 8: 24 channels for an expansion, 16 of an output that counts twice in one block.
    assert {name: proposal.channels for name, proposal in found.items()} == {
        "block2.exp": 40,
        "block3.exp": 48,
        "block4.exp": 72,
        "last": 40,
        "stem-block1.out": 8,  # 8 x (1 + 2): the block without an expansion is cut with its input
        "block2-block3.out": 16,  # twice two: 8 are enough
        "block4.out": 16,
    }
    for proposal in found.values():
        assert proposal.latency_ms == channels(proposal.spec) <= channels(TINY) - 20


def test_sizes_that_mean_something_else_are_passed_over():
    # Block 4 reads 24 channels: an expansion of 24 would mean none.
    found = propose_at(channels(TINY) - (96 - 24))
    assert found["block4.exp"].channels == 16


def test_units_that_cannot_save_enough_are_left_out():
    found = propose_at(channels(TINY) - 60)
    assert "block2.exp" not in found  # 64 - 8 = 56 at the most
    assert "block3.exp" in found
    assert propose_at(0.0) == {}


def test_steps_of_a_device_are_found():
    """Where every 32 channels cost the same, the widest size on the lower step is taken."""

    def stepped(spec):
        return float(sum(-(-block.exp // 32) for block in spec.blocks))

    found = propose_at(stepped(TINY) - 1, stepped)
    assert {name: proposal.channels for name, proposal in found.items()} == {
        "block2.exp": 32,
        "block3.exp": 64,
        "block4.exp": 64,
    }


def test_few_sizes_are_looked_at():
    """Each may have to be measured: for the 12 sizes of block 4 it takes no more than a handful."""
    seen = []

    def latency(spec):
        seen.append(spec.blocks[3].exp)
        return channels(spec)

    propose_at(channels(TINY) - 56, latency)
    assert len({size for size in seen if size != 96}) <= 4


def test_sizes_beyond_a_table_are_not_proposed():
    def table(spec):
        if spec.blocks[3].exp < 64:
            raise NotInTable("no entry")
        return channels(spec)

    assert propose_at(channels(TINY) - 30, table)["block4.exp"].channels == 64
    found = propose_at(channels(TINY) - 40, table)
    assert "block4.exp" not in found
    assert "block3.exp" in found


def test_the_divisor_is_kept_to():
    found = propose_at(channels(TINY) - 10, divisor=16)
    assert all(proposal.channels % 16 == 0 for proposal in found.values())
    with pytest.raises(ValueError, match="divisor"):
        propose_at(1.0, divisor=0)
