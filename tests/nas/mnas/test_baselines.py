"""Random search and regularized evolution."""

from collections import Counter

import pytest

from nas.mnas.baselines import Evolution, RandomSearch


def test_random_search_is_uniform_in_every_token() -> None:
    drawn = RandomSearch((2, 3), seed=0).ask(6000)
    counts = Counter(drawn)
    assert len(counts) == 6
    assert all(abs(count - 1000) < 120 for count in counts.values())  # four standard deviations


def test_random_search_draws_new_architectures_after_each_batch() -> None:
    search = RandomSearch((4,) * 8, seed=0)
    first = search.ask(4)
    assert search.ask(4) == first
    search.tell(first, [0.0] * 4)
    assert not set(search.ask(4)) & set(first)


def test_the_oldest_member_is_dropped_even_if_it_is_the_best() -> None:
    search = Evolution((9, 9), population=3, tournament=2)
    search.tell([(0, 0), (1, 1), (2, 2)], [1.0, 0.1, 0.2])
    search.tell([(3, 3)], [0.3])
    assert [tokens for tokens, _ in search.members] == [(1, 1), (2, 2), (3, 3)]


def test_a_child_is_a_parent_with_one_token_changed() -> None:
    search = Evolution((5, 1, 5, 5), population=4, tournament=2)
    parents = [(0, 0, 0, 0), (1, 0, 1, 1), (2, 0, 2, 2), (3, 0, 3, 3)]
    search.tell(parents, [0.1, 0.2, 0.3, 0.4])
    for child in search.ask(200):
        assert min(sum(a != b for a, b in zip(child, parent, strict=True)) for parent in parents) == 1
        assert child[1] == 0
        assert max(child) < 5


def test_a_tournament_of_all_members_is_won_by_the_best() -> None:
    search = Evolution((5, 5, 5), population=3, tournament=3)
    search.tell([(0, 0, 0), (1, 1, 1), (2, 2, 2)], [0.1, 0.9, 0.5])
    for child in search.ask(50):
        assert sum(a != b for a, b in zip(child, (1, 1, 1), strict=True)) == 1


def test_the_population_is_filled_at_random_first() -> None:
    search = Evolution((5,) * 6, population=8, tournament=2, seed=1)
    assert search.ask(8) != search.ask(7)
    first = search.ask(6)
    search.tell(first, [0.0] * 6)
    later = search.ask(20)  # two more at random, then children of the six members
    near = [min(sum(a != b for a, b in zip(c, p, strict=True)) for p in first) for c in later]
    assert near[:2] != [1, 1]
    assert near[2:] == [1] * 18


def test_in_a_space_of_one_network_children_equal_their_parents() -> None:
    search = Evolution((1, 1), population=1, tournament=1)
    search.tell([(0, 0)], [0.5])
    assert search.ask(2) == [(0, 0), (0, 0)]


@pytest.mark.parametrize(("population", "tournament"), [(4, 5), (4, 0), (0, 0)])
def test_options_are_checked(population: int, tournament: int) -> None:
    with pytest.raises(ValueError, match="tournament must be at least 1 and at most population"):
        Evolution((2,), population=population, tournament=tournament)
    with pytest.raises(ValueError, match="num_options must be positive"):
        RandomSearch(())
