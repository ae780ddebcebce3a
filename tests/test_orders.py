"""Orders that are computed: each is a permutation, and looks like one drawn at random."""

import itertools

import jax
import numpy as np
import pytest

from jlstm.orders import Computed, shuffled

HUGE = 10**10


def drawn(size, seed=0):
    return shuffled(np.random.default_rng(seed), size)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097, 100_000])
def test_every_number_comes_once(size):
    np.testing.assert_array_equal(np.sort(drawn(size)[np.arange(size)]), np.arange(size))


def test_every_order_of_few_comes_as_often():
    orders = [tuple(drawn(4, seed)[np.arange(4)].tolist()) for seed in range(2400)]
    counts = np.array([orders.count(order) for order in itertools.permutations(range(4))])
    assert ((counts - 100) ** 2 / 100).sum() < 45  # chi-square of 23 degrees of freedom: 45 in one case of 250


def test_an_order_is_the_seeds_and_may_be_asked_for_in_any_pieces():
    places = np.random.default_rng(1).integers(HUGE, size=(50, 20))
    rows = drawn(HUGE)[places]
    assert (rows.shape, rows.dtype) == ((50, 20), np.int64)
    np.testing.assert_array_equal(drawn(HUGE)[places.ravel()[::-1]], rows.ravel()[::-1])
    assert (drawn(HUGE, seed=1)[places] != rows).mean() > 0.99


@pytest.mark.parametrize("places", [np.arange(100_000), np.arange(100_000) * 64], ids=["next to each other", "apart"])
def test_rows_of_a_long_order_are_spread_evenly_and_follow_no_pattern(places):
    rows = drawn(HUGE)[places]
    assert len(np.unique(rows)) == len(rows)
    assert 0 <= rows.min() <= rows.max() < HUGE
    for digits in (rows // (HUGE // 100), rows % 100):
        counts = np.bincount(digits, minlength=100)
        assert ((counts - 1000) ** 2 / 1000).sum() < 150  # chi-square of 99 degrees of freedom: 150 in one of 1,000
    for far in (1, 2, 100):
        assert abs(np.corrcoef(rows[:-far], rows[far:])[0, 1]) < 0.015  # five deviations


def test_a_computed_order_has_no_arrays():
    assert jax.tree.leaves(Computed(lambda places: places)) == []
