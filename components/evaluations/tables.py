"""Evaluations as tables for the terminal: one column for each model, or two models and what changed between them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from components.errors import InputError
from components.evaluations.comparison import Compared, Comparison
from components.evaluations.directory import OWN_FOLDER, holds_evaluation, read_scores
from components.evaluations.intervals import Difference
from components.evaluations.means import MEANS, OWN, category_weights
from components.evaluations.schema import Scores
from components.evaluations.words import (
    asked,
    benchmark_name,
    headline,
    headlines_of,
    percent,
    share,
    small_sample,
)


class TextTable(NamedTuple):
    """A table of texts. The first column is one of names."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str


def scores_table(folders: Mapping[str, Path]) -> TextTable:
    """Own records first, then the benchmark: headlines with their intervals, then the benchmark's categories.

    Args:
        folders: the evaluation directories, by name; those that are not there are left out.

    Raises:
        InputError: a scores.json is not one of ours, or there is none.
    """
    benchmarks = [
        {name: read_scores(path / below) for name, path in folders.items() if holds_evaluation(path / below)}
        for below in (OWN_FOLDER, "")
    ]
    names = [name for name in folders if any(name in found for found in benchmarks)]
    done = [found for found in benchmarks if found]
    rows = [row for found in done for row in _score_rows(found, names)]
    notes = [small_sample(next(iter(found.values()))) for found in done]
    if not rows:
        raise InputError(f"evaluation: there is none in {', '.join(map(str, folders.values()))}")
    return TextTable("right answers", ["right answers", "questions", *names], rows, next(filter(None, notes), ""))


def _score_rows(found: Mapping[str, Scores], names: Sequence[str]) -> Iterator[list[str]]:
    first = next(iter(found.values()))
    for name in headlines_of(first):
        cells = [share(found[model].means[name]) if model in found else "-" for model in names]
        yield [f"{benchmark_name(first)}: {headline(name)}", f"{first.means[name].questions:,}", *cells]
    for category, entry in first.categories.items():
        if category not in OWN:
            cells = [percent(found[model].categories[category].accuracy) if model in found else "-" for model in names]
            yield [f"  {category}", asked(entry), *cells]


def paired_table(compared: Sequence[Compared], one: str, two: str) -> TextTable:
    """Model `two` against `one`: each mean that people read first, and the benchmark's categories.

    Args:
        compared: each benchmark, in the order shown.
    """
    return TextTable(
        f"{two} against {one}",
        ["right answers", "asked", one, two, "changed", "points"],
        [row for benchmark in compared for row in _paired_rows(benchmark, one, two)],
        "changed: questions gained and lost. points: the paired difference with its 95 % interval; one that lies above "
        "0 shows that the second model is better, one that holds 0 shows nothing.",
    )


def _paired_rows(compared: Compared, one: str, two: str) -> Iterator[list[str]]:
    comparison = compared.pairs[one, two]
    before, after = compared.scores[one], compared.scores[two]
    differences = comparison.mean_differences()
    for name in headlines_of(before):
        weights = category_weights(MEANS[name], comparison.changes)
        shares = [percent(scores.means[name].accuracy) for scores in (before, after)]
        yield _paired_row(f"{benchmark_name(before)}: {headline(name)}", shares, differences[name], comparison, weights)
    for category in comparison.changes if not set(comparison.changes) <= set(OWN) else ():
        shares = [percent(scores.categories[category].accuracy) for scores in (before, after)]
        difference = comparison.category_difference(category)
        yield _paired_row(f"  {category}", shares, difference, comparison, [category])


def _paired_row(
    name: str, shares: list[str], difference: Difference, comparison: Comparison, categories: Collection[str]
) -> list[str]:
    gained = sum(comparison.changes[category].gained for category in categories)
    lost = sum(comparison.changes[category].lost for category in categories)
    interval = f"[{100 * difference.low:+.0f}, {100 * difference.high:+.0f}]"
    moved = f"{100 * difference.mean:+.1f} {interval}"
    return [name, f"{difference.questions:,}", *shares, f"+{gained} -{lost}", moved]
