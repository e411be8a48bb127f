"""Which categories make which mean, and with what weights: the leaderboard's sums, and the same over what was asked.

The only place that knows them. A category that is asked for the first time needs its size here, or a line in the table
it belongs to, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

# Category and its number of questions in BFCL v4: the weights of the live mean, and a check of the data found.
SIZES = {
    "simple_python": 400,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "irrelevance": 240,
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
    "live_irrelevance": 884,
    "live_relevance": 16,
}


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of categories and of other means. Without `weights` every part weighs the same."""

    parts: tuple[str | Mean, ...]
    weights: tuple[float, ...] | None = None


_LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
# Source: generate_leaderboard_csv of bfcl-eval 2026.3.23, eval_checker/eval_runner_helper.py.
NON_LIVE = Mean(
    (
        Mean(("simple_python", "simple_java", "simple_javascript")),
        "multiple",
        "parallel",
        "parallel_multiple",
    )
)
LIVE = Mean(_LIVE, tuple(float(SIZES[name]) for name in _LIVE))
IRRELEVANCE = Mean(("irrelevance", "live_irrelevance"))
MULTI_TURN = Mean(tuple(f"multi_turn_{kind}" for kind in ("base", "miss_func", "miss_param", "long_context")))
AGENTIC = Mean(
    (
        Mean(("web_search_base", "web_search_no_snippet")),
        Mean(("memory_kv", "memory_vector", "memory_rec_sum")),
    )
)
OFFICIAL = {
    "non_live": NON_LIVE,
    "live": LIVE,
    "irrelevance": IRRELEVANCE,
    "multi_turn": MULTI_TURN,
    "agentic": AGENTIC,
    "overall": Mean((NON_LIVE, LIVE, IRRELEVANCE, MULTI_TURN, AGENTIC), (0.1, 0.1, 0.1, 0.3, 0.4)),
}
# The two headlines, never averaged into one: a model that never calls has every irrelevance question right.
CALLS = Mean((NON_LIVE, LIVE))  # the papers' single-turn figure (2508.05118v4, table 1)
HEADLINES = {"calls": CALLS, "irrelevance": IRRELEVANCE}
# One's own records: an evaluation of their own, shown first and never summed up with the benchmark.
OWN_CALLS, OWN_NO_CALL = "own_calls", "own_no_call"
OWN = {OWN_CALLS: Mean((OWN_CALLS,)), OWN_NO_CALL: Mean((OWN_NO_CALL,))}
MEANS = {
    **OWN,
    "calls": CALLS,
    "non_live": NON_LIVE,
    "live": LIVE,
    "irrelevance": IRRELEVANCE,
    "multi_turn": MULTI_TURN,
    "agentic": AGENTIC,
}
CALLING = (OWN_CALLS, "calls")  # means of questions that ask for a call
# What calling costs where no call fits, beside what it brings: by this a trained model is compared with its base.
BALANCE = Mean((CALLS, IRRELEVANCE))
OWN_BALANCE = Mean((OWN_CALLS, OWN_NO_CALL))


def category_weights(mean: Mean, asked: Collection[str] | None = None) -> dict[str, float]:
    """The weight of each category in `mean`; they add up to 1.

    Args:
        asked: leave all other categories out, at every level of the mean; {} when none of them belongs to it.
    """
    parts: list[tuple[float, Mapping[str, float]]] = []
    for part, weight in zip(mean.parts, mean.weights or (1.0,) * len(mean.parts), strict=True):
        if isinstance(part, Mean):
            inner = category_weights(part, asked)
        else:
            inner = {part: 1.0} if asked is None or part in asked else {}
        if inner:
            parts.append((weight, inner))
    total = sum(weight for weight, _ in parts)
    return {category: weight * share / total for weight, inner in parts for category, share in inner.items()}


def official_means(accuracy: Mapping[str, float]) -> dict[str, float]:
    """The leaderboard's means and overall, in which a category that was not asked counts 0.

    `overall_of_asked` is the overall with its weights spread over what was asked: not a figure of the leaderboard.
    """
    means = {
        name: sum(weight * accuracy.get(category, 0.0) for category, weight in category_weights(mean).items())
        for name, mean in OFFICIAL.items()
    }
    asked = category_weights(OFFICIAL["overall"], accuracy)
    return means | {"overall_of_asked": sum(weight * accuracy[category] for category, weight in asked.items())}
