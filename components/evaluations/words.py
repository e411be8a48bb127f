"""How scores and differences are said to people: in the terminal, on pages, in the gate's reasons."""

from __future__ import annotations

import re
from collections.abc import Sequence

from components.errors import InputError
from components.evaluations.intervals import Difference
from components.evaluations.means import CALLING, HEADLINES, OWN
from components.evaluations.schema import CategoryScore, MeanScore, Scores

_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]")  # names become folders and names of metrics
_TAKEN = {"checkpoints", "generations", "own"}  # folders that an evaluation has already
FEW = 100  # questions of a kind, below which its interval is 20 points wide and more


def is_own(scores: Scores) -> bool:
    """Whether own records were asked, and not the benchmark's questions."""
    return set(scores.categories) <= set(OWN)


def benchmark_name(scores: Scores) -> str:
    """What was asked, as a title."""
    return "own records" if is_own(scores) else "BFCL"


def items_name(scores: Scores) -> str:
    """What was asked, within a sentence."""
    return "own records" if is_own(scores) else "BFCL questions"


def headlines_of(scores: Scores) -> list[str]:
    """The means that people read first, of those that were asked."""
    return [name for name in (*OWN, *HEADLINES) if name in scores.means]


def headline(mean: str) -> str:
    """What people call a headline; other means keep their name."""
    if mean in CALLING:
        return "calls"
    return "no call fits" if mean in (*OWN, *HEADLINES) else mean


def small_sample(scores: Scores) -> str:
    """A sentence where the questions are too few to say much; "" where they are not."""
    if not any(scores.means[name].questions < FEW for name in headlines_of(scores)):
        return ""
    return (
        "Few questions: read the 95 % intervals in brackets, not the percentages. A model that never calls is right "
        "wherever no call is."
    )


def asked(entry: CategoryScore) -> str:
    """How many questions, and of how many."""
    return f"{entry.n:,}" if entry.n == entry.of else f"{entry.n:,} of {entry.of:,}"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.1f} %"


def share(entry: CategoryScore | MeanScore) -> str:
    """A share with its interval."""
    low, high = entry.interval
    return f"{percent(entry.accuracy)} [{100 * low:.0f}, {100 * high:.0f}]"


def points(difference: Difference) -> str:
    """A difference."""
    return f"{100 * difference.mean:+.1f} points"


def bounds(difference: Difference) -> str:
    """The interval of a difference, in points."""
    return f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"


def distinct_names(places: Sequence[str]) -> list[str]:
    """A short name for each place: its last part, or as many parts as tell it from the others.

    Raises:
        InputError: a place is named twice.
    """
    parts = [[_UNUSUAL.sub("_", part).strip(".") for part in re.split(r"[/:@]+", place)] for place in places]
    parts = [[part for part in found if part] or ["model"] for found in parts]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-length:]) for part in parts]
        names = [f"{name}-model" if name in _TAKEN else name for name in names]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"{', '.join(places)}: the same place is named twice; name each once")
