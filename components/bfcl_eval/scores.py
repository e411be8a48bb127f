"""Accuracies with their intervals, the leaderboard's group means and overall, paired comparison, scores.json.

Pure Python and light: the pipeline prints `summary_table` without loading anything. What is right was decided in
grading.py.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.bfcl_eval.questions import SIZES
from components.errors import InputError

MODELS = {"base": "base", "sft_warmup": "warm-up", "egpo_rl": "EGPO"}  # folder and the name people read
SCORES = "scores.json"
# The official overall: 10 % non-live, 10 % live, 10 % irrelevance, 30 % multi-turn, 40 % agentic.
OFFICIAL_WEIGHTS = {"non_live": 0.1, "live": 0.1, "irrelevance": 0.1, "multi_turn": 0.3, "agentic": 0.4}
SIMPLE = ("simple_python", "simple_java", "simple_javascript")
LIVE = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")


@dataclass(frozen=True, slots=True)
class Graded:
    """One question's outcome. `format`: the code of parse_turn, "" for a thought and a call list as trained."""

    id: str
    category: str
    right: bool
    reason: str
    format: str
    finished: bool
    output_token_count: int


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927, score interval); (0, 1) when nothing was asked."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    centre = (correct + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(correct * (n - correct) / n + z * z / 4)
    # at the ends the bound is exact and rounding must not move it off
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on the same questions: `better` only the second got right, `worse` only the first.

    p: exact two-sided McNemar test. interval: 95 % of the difference in accuracy, exact given the questions on which
    the two differ (Clopper-Pearson on better / (better + worse)); None where they never differ.
    """

    n: int
    better: int
    worse: int
    p: float
    interval: tuple[float, float] | None

    @property
    def difference(self) -> float:
        """Accuracy of the second less that of the first."""
        return (self.better - self.worse) / self.n if self.n else 0.0


def compare(first: Mapping[str, bool], second: Mapping[str, bool]) -> Pair:
    """Compare the outcomes (id to right) of two models on the same questions."""
    better = sum(second[key] and not first[key] for key in first)
    worse = sum(first[key] and not second[key] for key in first)
    changed = better + worse
    if changed == 0:
        return Pair(len(first), 0, 0, 1.0, None)
    p = min(1.0, 2 * _at_most(min(better, worse), changed, 0.5))
    low = _solve(lambda share: 1 - _at_most(better - 1, changed, share) - 0.025) if better else 0.0
    high = _solve(lambda share: 0.025 - _at_most(better, changed, share)) if worse else 1.0
    scale = changed / len(first)
    return Pair(len(first), better, worse, p, ((2 * low - 1) * scale, (2 * high - 1) * scale))


def _at_most(k: int, n: int, share: float) -> float:
    """Probability of at most k of n."""
    if k < 0:
        return 0.0
    if share in (0.0, 1.0):
        return 1.0 if share == 0.0 or k >= n else 0.0
    up, down, base = math.log(share), math.log1p(-share), math.lgamma(n + 1)
    terms = (base - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * up + (n - i) * down for i in range(k + 1))
    return min(1.0, math.fsum(map(math.exp, terms)))


def _solve(rising: Any) -> float:
    """Zero of a rising function on [0, 1]."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2


def category_scores(graded: Sequence[Graded]) -> dict[str, dict[str, Any]]:
    """For each category: n, of (the benchmark's number), correct, accuracy, interval, failure reasons, format."""
    scores = {}
    for category in dict.fromkeys(item.category for item in graded):
        items = [item for item in graded if item.category == category]
        correct = sum(item.right for item in items)
        scores[category] = {
            "n": len(items),
            "of": SIZES[category],
            "correct": correct,
            "accuracy": correct / len(items),
            "interval": list(wilson_interval(correct, len(items))),
            "reasons": _counts(item.reason for item in items if not item.right),
            "format": _counts(item.format or "ok" for item in items),
            "cut": sum(not item.finished for item in items),
            "mean_output_tokens": round(sum(item.output_token_count for item in items) / len(items), 1),
        }
    return scores


def _counts(codes: Any) -> dict[str, int]:
    return dict(sorted(Counter(codes).items(), key=lambda item: (-item[1], item[0])))


def official_groups(accuracy: Mapping[str, float]) -> dict[str, float]:
    """The leaderboard's groups and overall; a category that was not run counts 0.

    Source: generate_leaderboard_csv of bfcl-eval 2026.3.23, eval_checker/eval_runner_helper.py.
    """
    groups = {
        "non_live": _mean(
            [_mean([accuracy.get(name, 0.0) for name in SIMPLE])]
            + [accuracy.get(name, 0.0) for name in ("multiple", "parallel", "parallel_multiple")]
        ),
        "live": sum(SIZES[name] * accuracy.get(name, 0.0) for name in LIVE) / sum(SIZES[name] for name in LIVE),
        "irrelevance": _mean([accuracy.get(name, 0.0) for name in ("irrelevance", "live_irrelevance")]),
        "multi_turn": 0.0,
        "agentic": 0.0,
    }
    return groups | {"overall": sum(weight * groups[name] for name, weight in OFFICIAL_WEIGHTS.items())}


def run_groups(accuracy: Mapping[str, float]) -> dict[str, float]:
    """The same means over the categories that were run, those that were not left out; a group without any is absent.

    `overall_single_turn` is the mean of the groups there are: in the official overall these weigh the same.
    """
    simple = [accuracy[name] for name in SIMPLE if name in accuracy]
    non_live = [_mean(simple)] if simple else []
    non_live += [accuracy[name] for name in ("multiple", "parallel", "parallel_multiple") if name in accuracy]
    live = [name for name in LIVE if name in accuracy]
    irrelevance = [accuracy[name] for name in ("irrelevance", "live_irrelevance") if name in accuracy]
    groups = {}
    if non_live:
        groups["non_live"] = _mean(non_live)
    if live:
        groups["live"] = sum(SIZES[name] * accuracy[name] for name in live) / sum(SIZES[name] for name in live)
    if irrelevance:
        groups["irrelevance"] = _mean(irrelevance)
    if groups:
        groups["overall_single_turn"] = _mean(list(groups.values()))
    return groups


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def flat_metrics(scores: Mapping[str, Any]) -> dict[str, float]:
    """scores.json as metrics: each category, each group over what was run, and the official overall."""
    metrics = {name: entry["accuracy"] for name, entry in scores["categories"].items()}
    groups = {_group_name(group): mean for group, mean in scores["over_what_was_run"].items()}
    return metrics | groups | {"official_overall": scores["official"]["overall"]}


def _group_name(group: str) -> str:
    """Apart from the category of the same name."""
    return group if group.startswith("overall") else f"mean_{group}"


def read_scores(folder: Path) -> dict[str, Any]:
    """scores.json of an evaluation directory.

    Raises:
        InputError: there is none.
    """
    try:
        return dict(json.loads((folder / SCORES).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"evaluation {folder}: {SCORES} cannot be read ({error})") from None


def summary_table(evaluation_folder: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table that a run ends with: each category and group, a column for each model.

    Raises:
        InputError: `evaluation_folder` is no stage folder of bfcl_eval.
    """
    found = {name: read_scores(evaluation_folder / name) for name in MODELS if (evaluation_folder / name).is_dir()}
    if not found:
        raise InputError(f"evaluation {evaluation_folder}: none of {', '.join(MODELS)} is in it")
    some = next(iter(found.values()))
    rows = []
    for category, entry in some["categories"].items():
        asked = str(entry["n"]) if entry["n"] == entry["of"] else f"{entry['n']} of {entry['of']}"
        rows.append(
            [category, asked] + [percent(scores["categories"][category]["accuracy"]) for scores in found.values()]
        )
    for group in some["over_what_was_run"]:
        rows.append(
            [_group_name(group), ""] + [percent(scores["over_what_was_run"][group]) for scores in found.values()]
        )
    rows.append(["official_overall", ""] + [percent(scores["official"]["overall"]) for scores in found.values()])
    return ["category", "questions", *(MODELS[name] for name in found)], rows


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.1f} %"
