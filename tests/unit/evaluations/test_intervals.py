"""Intervals and the paired test: published values, and how often an interval misses the truth, in simulation."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluations.intervals import Changes, mean_interval, paired_difference, wilson_interval
from components.evaluations.means import MEANS, SIZES, category_weights


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_values(correct, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_ends():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(7, 7)[1] == 1.0 and wilson_interval(0, 7)[0] == 0.0


def test_a_mean_weighted_by_size_has_the_interval_of_all_its_questions():
    weights = {"a": 0.2, "b": 0.8}
    mean, interval = mean_interval({"a": 0.5, "b": 0.75}, {"a": 20, "b": 80}, weights)
    assert (mean, interval) == (pytest.approx(0.7), pytest.approx(wilson_interval(70, 100)))


def test_a_category_that_weighs_more_than_its_questions_widens_the_interval():
    shares = {"a": 0.5, "b": 0.5}
    _, even = mean_interval(shares, {"a": 50, "b": 50}, {"a": 0.5, "b": 0.5})
    _, uneven = mean_interval(shares, {"a": 90, "b": 10}, {"a": 0.5, "b": 0.5})
    assert uneven[1] - uneven[0] > 1.5 * (even[1] - even[0])


def changes(gained: int, lost: int, n: int) -> Changes:
    return Changes(n, gained, lost, gained - lost, gained + lost)


@pytest.mark.parametrize(("gained", "lost"), [(9, 1), (1, 9), (5, 5), (0, 6), (12, 3), (300, 250), (0, 0)])
def test_the_test_is_mcnemars(gained, lost):
    n, k = gained + lost, min(gained, lost)
    assert changes(gained, lost, 600).p == pytest.approx(min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n))


def test_the_difference_is_bonett_and_prices():
    """The formula by hand: n + 2 questions, one more gained and one more lost."""
    found = paired_difference({"a": changes(36, 14, 101)}, {"a": 1.0})
    centre = (37 - 15) / 103
    half = 1.959964 * ((37 + 15) / 103 - centre**2) ** 0.5 / 103**0.5
    assert found.mean == pytest.approx(22 / 101)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_few_questions_without_a_change_are_no_certainty():
    found = paired_difference({"a": changes(0, 0, 3)}, {"a": 1.0})
    assert found.mean == 0 and found.low < -0.4 and found.high > 0.4
    assert paired_difference({"a": changes(0, 0, 2000)}, {"a": 1.0}).high < 0.01


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=4),
    st.lists(st.integers(1, 9), min_size=4, max_size=4),
)
def test_swapping_the_models_mirrors_the_interval(counts, parts):
    names = "abcd"[: len(counts)]
    weights = {name: part / sum(parts[: len(counts)]) for name, part in zip(names, parts, strict=False)}
    one = {name: changes(g, w, g + w + rest) for name, (g, w, rest) in zip(names, counts, strict=True)}
    two = {name: changes(w, g, g + w + rest) for name, (g, w, rest) in zip(names, counts, strict=True)}
    there, back = paired_difference(one, weights), paired_difference(two, weights)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert -1 <= there.low <= there.mean <= there.high <= 1


@pytest.mark.parametrize("mean", ["calls", "irrelevance", "live"])
@pytest.mark.parametrize("of_each", [3, 16, 10_000])
@pytest.mark.parametrize("moves", [(0.02, 0.02), (0.10, 0.10), (0.10, 0.02)])
def test_an_interval_misses_the_truth_five_times_in_a_hundred_at_most(mean, of_each, moves):
    generator, weights = np.random.default_rng(1), category_weights(MEANS[mean], SIZES)
    sizes = {name: min(of_each, SIZES[name]) for name in weights}
    drawn = {name: generator.multinomial(n, [*moves, 1 - sum(moves)], size=400) for name, n in sizes.items()}
    misses = 0
    for i in range(400):
        counted = {name: changes(int(drawn[name][i][0]), int(drawn[name][i][1]), n) for name, n in sizes.items()}
        found = paired_difference(counted, weights)
        misses += not found.low <= moves[0] - moves[1] <= found.high
    assert misses <= 0.05 * 400 + 13  # three standard errors of the simulation
