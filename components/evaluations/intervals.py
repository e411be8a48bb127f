"""Intervals of a share, of a weighted mean of shares, and of a paired difference; 95 % where nothing else is said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from statistics import NormalDist

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def wilson_interval(correct: float, n: float) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, score interval); (0, 1) when nothing was asked."""
    if n == 0:
        return 0.0, 1.0
    centre = (correct + Z * Z / 2) / (n + Z * Z)
    half = Z / (n + Z * Z) * math.sqrt(max(0.0, correct * (n - correct) / n) + Z * Z / 4)
    # at the ends the bound is exact and rounding must not move it off
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


def effective_size(sizes: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """The number of questions that would say as much in one simple sample: 1 / sum(w^2 / n) (Kish 1965)."""
    return 1 / sum(weight * weight / sizes[category] for category, weight in weights.items())


def mean_interval(
    shares: Mapping[str, float], sizes: Mapping[str, int], weights: Mapping[str, float]
) -> tuple[float, tuple[float, float]]:
    """A weighted mean of categories' shares, and its 95 % interval.

    Wilson's interval at the effective number of questions (Dean and Pagano 2015, J. Surv. Stat. Methodol. 3:484).
    """
    mean = min(1.0, sum(weight * shares[category] for category, weight in weights.items()))
    n = effective_size(sizes, weights)
    low, high = wilson_interval(mean * n, n)
    return mean, (min(low, mean), max(high, mean))


@dataclass(frozen=True, slots=True)
class Changes:
    """How two models differ on the same `n` questions.

    A question's change is its share of right samples after, less that before: -1, 0 or 1 where there is one sample.
    gained, lost: questions whose change is above and below 0. total, squares: sums of the changes and their squares.
    """

    n: int
    gained: int
    lost: int
    total: float
    squares: float

    @property
    def p(self) -> float:
        """Exact two-sided sign test; with one sample a question it is McNemar's exact test."""
        changed = self.gained + self.lost
        tail = sum(comb(changed, k) for k in range(min(self.gained, self.lost) + 1))
        return min(1.0, 2 * tail / 2**changed)


@dataclass(frozen=True, slots=True)
class Difference:
    """A (weighted mean) difference in accuracy with its interval, over `questions` questions."""

    questions: int
    mean: float
    low: float
    high: float


def paired_difference(
    changes: Mapping[str, Changes], weights: Mapping[str, float], confidence: float = CONFIDENCE
) -> Difference:
    """The weighted mean of the categories' differences.

    One category: the adjusted Wald interval for paired shares (Bonett and Price 2012, J. Educ. Behav. Stat. 37:479),
    that is, of n + 2 questions of which one was gained and one was lost beside those seen. Several: the two are spread
    over the categories as their weights and sizes ask, so that few questions never look like certainty.
    """
    sizes = {category: changes[category].n for category in weights}
    added = 2 / effective_size(sizes, weights)  # questions added for each one asked
    mean = centre = variance = 0.0
    for category, weight in weights.items():
        found = changes[category]
        shrunk = found.total / found.n / (1 + added)
        spread = (found.squares / found.n + added) / (1 + added) - shrunk * shrunk
        mean += weight * found.total / found.n
        centre += weight * shrunk
        variance += weight * weight * spread / (found.n * (1 + added))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)
    return Difference(
        sum(sizes.values()), mean, max(-1.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))
    )
