"""Proposals are the smallest cuts that save enough latency, with few latencies looked up."""

import pytest

from deploy.latency_table.table import NotInTable
from nas.netadapt.proposals import propose
from nas.netadapt.pruning import prunable_units
from tests.nas.toy_trainer import TINY, tiny_classifier

STATE = tiny_classifier(TINY).state_dict()


def channels(spec):
    """A latency of 1 per expansion channel, and 2 per output channel of a block."""
    return float(sum(block.exp + 2 * block.out for block in spec.blocks) + spec.last)


def propose_at(target, latency=channels, divisor=8):
    proposals = propose(TINY, prunable_units(TINY, STATE), latency, target_ms=target, divisor=divisor)
    return {proposal.unit.name: proposal for proposal in proposals}


def test_each_unit_gets_the_smallest_cut_that_saves_enough():
    proposals = propose_at(channels(TINY) - 20)
    # Multiples of 8: 24 channels for an expansion, 16 of an output that counts twice in one block.
    assert {name: proposal.channels for name, proposal in proposals.items()} == {
        "block2.exp": 40,
        "block3.exp": 48,
        "block4.exp": 72,
        "last": 40,
        "stem-block1.out": 8,  # 8 x (1 + 2): the block without an expansion is cut with its input
        "block2-block3.out": 16,  # twice 2: 8 channels are enough
        "block4.out": 16,
    }
    for proposal in proposals.values():
        assert proposal.latency_ms == channels(proposal.spec) <= channels(TINY) - 20


def test_sizes_that_a_spec_cannot_have_are_skipped():
    # Block 4 reads 24 channels, so an expansion of 24 would mean none.
    proposals = propose_at(channels(TINY) - (96 - 24))
    assert proposals["block4.exp"].channels == 16


def test_units_that_cannot_save_enough_are_left_out():
    proposals = propose_at(channels(TINY) - 60)
    assert "block2.exp" not in proposals  # 64 - 8 = 56 at most
    assert "block3.exp" in proposals
    assert propose_at(0.0) == {}


def test_the_steps_of_a_device_are_used():
    """If latency only changes every 32 channels, the widest size on the lower step is proposed."""

    def stepped(spec):
        return float(sum(-(-block.exp // 32) for block in spec.blocks))

    proposals = propose_at(stepped(TINY) - 1, stepped)
    assert {name: proposal.channels for name, proposal in proposals.items()} == {
        "block2.exp": 32,
        "block3.exp": 64,
        "block4.exp": 64,
    }


def test_few_latencies_are_looked_up():
    """Each may have to be measured; for the 12 sizes of block 4, at most four are."""
    seen = []

    def latency(spec):
        seen.append(spec.blocks[3].exp)
        return channels(spec)

    propose_at(channels(TINY) - 56, latency)
    assert len({size for size in seen if size != 96}) <= 4


def test_sizes_that_a_table_lacks_are_not_proposed():
    def table(spec):
        if spec.blocks[3].exp < 64:
            raise NotInTable("no entry")
        return channels(spec)

    assert propose_at(channels(TINY) - 30, table)["block4.exp"].channels == 64
    proposals = propose_at(channels(TINY) - 40, table)
    assert "block4.exp" not in proposals
    assert "block3.exp" in proposals


def test_channels_are_multiples_of_the_divisor():
    proposals = propose_at(channels(TINY) - 10, divisor=16)
    assert all(proposal.channels % 16 == 0 for proposal in proposals.values())
    with pytest.raises(ValueError, match="divisor"):
        propose_at(1.0, divisor=0)
