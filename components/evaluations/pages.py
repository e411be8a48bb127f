"""The two pages of evaluations: one model, and several on the same questions. Drawn from evaluation directories only,
so they can be drawn again wherever those were copied to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.evaluations.comparison import Compared, Comparison, Label, by_label
from components.evaluations.directory import OWN_FOLDER, read_questions
from components.evaluations.intervals import Difference
from components.evaluations.page_blocks import (
    category_bars,
    details,
    failures_table,
    forms_table,
    headline_bars,
    means_table,
    method,
    official_table,
    read_texts,
    sentence,
)
from components.evaluations.schema import Evaluation, Scores
from components.evaluations.words import benchmark_name, headline, is_own, percent, share
from components.services.report import Block, Table, Text, write_report

NAMED = 20  # tools and sources that lost most, and as many that gained most
PAIRED_COLUMNS = ("from", "to", "of", "questions", "points", "95 % interval")


@dataclass(frozen=True)
class _Part:
    """What one benchmark gives to a page."""

    benchmark: str
    sentence: str
    pictures: Sequence[Block]
    tables: Sequence[Block]


def write_model_page(path: Path, folder: Path, evaluation: Evaluation) -> None:
    """The page of one model's evaluation: own records first, where it was asked some, then the benchmark.

    Args:
        folder: the evaluation directory that `evaluation` was read from, for what was asked and answered.

    Raises:
        InputError: a file of the directory is damaged.
    """
    parts = [] if evaluation.own is None else [_model_part(folder / OWN_FOLDER, evaluation.own)]
    _write(path, evaluation.scores.model.name, [*parts, _model_part(folder, evaluation)])


def write_comparison(path: Path, compared: Sequence[tuple[Compared, Mapping[str, Path]]], note: str = "") -> None:
    """The page that compares models on the same questions.

    Args:
        compared: for each benchmark, in the order shown, the models, and the evaluation directory of each.
        note: what could not be compared.

    Raises:
        InputError: a file of a directory is damaged.
    """
    parts = [_compared_part(models, folders) for models, folders in compared]
    _write(path, ", ".join(compared[0][0].evaluations), parts, note)


def _write(path: Path, title: str, parts: Sequence[_Part], note: str = "") -> None:
    """Every benchmark's pictures, and below them what is read."""

    def named(part: _Part, blocks: Sequence[Block]) -> Iterator[Block]:
        for block in blocks:
            yield replace(block, title=f"{part.benchmark}: {block.title}") if len(parts) > 1 else block

    blocks: list[Block] = [block for part in parts for block in named(part, part.pictures)]
    blocks += [Text("not compared", note)] if note else []
    blocks += [block for part in parts for block in named(part, part.tables)]
    write_report(path, f"Evaluation: {title}", " ".join(part.sentence for part in parts), blocks)


def _model_part(folder: Path, evaluation: Evaluation) -> _Part:
    scores, name = evaluation.scores, evaluation.scores.model.name
    wrong = list(dict.fromkeys(outcome.id for outcome in evaluation.outcomes if not outcome.right))
    texts = read_texts({name: folder}, set(wrong))
    one, sums = {name: evaluation}, {name: scores}
    leaderboard = not is_own(scores)  # with categories, and sums over them
    pictures: list[Block] = [headline_bars(sums)]
    if leaderboard:
        pictures.append(category_bars("accuracy by category", list(scores.categories), {name: scores.categories}))
    tables: list[Block] = [
        Table(
            "categories",
            ["category", "asked", "of", "right", "accuracy", "cut", "tokens an answer"],
            [
                [category, entry.n, entry.of, entry.correct, share(entry), entry.cut, entry.mean_completion_tokens]
                for category, entry in scores.categories.items()
            ],
            note="cut: answers that were not finished within max_new_tokens.",
        ),
        *([means_table(sums), official_table(sums)] if leaderboard else []),
        failures_table(one),
        forms_table(one),
        details("wrong answers", wrong, one, texts),
        method(scores),
    ]
    return _part(scores, sums, pictures, tables)


def _compared_part(compared: Compared, folders: Mapping[str, Path]) -> _Part:
    models, scores = compared.evaluations, compared.scores
    first, *_, last = models
    whole = compared.pairs[first, last]
    lost = set(whole.lost)
    still = [outcome.id for outcome in models[last].outcomes if not outcome.right and outcome.id not in lost]
    still = list(dict.fromkeys(still))
    texts = read_texts(folders, {*whole.gained, *whole.lost, *still})
    pictures: list[Block] = [headline_bars(scores)]
    tables: list[Block] = [
        Table(
            "paired differences",
            PAIRED_COLUMNS,
            [
                [*pair, headline(name), *_difference(difference)]
                for pair, comparison in compared.pairs.items()
                for name, difference in comparison.mean_differences().items()
            ],
            note="The same questions before and after. An interval that lies above 0 shows that the second model is "
            "better, one that holds 0 shows nothing.",
        )
    ]
    if not is_own(scores[first]):
        found = {name: one.categories for name, one in scores.items()}
        pictures.append(category_bars("accuracy by category", list(scores[first].categories), found))
        tables += [*_category_tables(compared), means_table(scores), official_table(scores)]
    else:
        tables += _own_tables(compared, folders)
    tables += [
        details(f"gained from {first} to {last}", whole.gained, models, texts),
        details(f"lost from {first} to {last}", whole.lost, models, texts),
        details(f"wrong with both {first} and {last}", still, models, texts),
        failures_table(models),
        forms_table(models),
        method(scores[first]),
    ]
    return _part(scores[first], scores, pictures, tables)


def _part(first: Scores, scores: Mapping[str, Scores], pictures: Sequence[Block], tables: Sequence[Block]) -> _Part:
    name = benchmark_name(first)
    return _Part(f"{name[:1].upper()}{name[1:]}", sentence(scores), pictures, tables)


def _own_tables(compared: Compared, folders: Mapping[str, Path]) -> list[Block]:
    """By the tool that the gold calls, and by where a record came from: what got better, and what worse."""
    first, *_, last = compared.evaluations
    before, after = (compared.evaluations[name].outcomes for name in (first, last))
    questions = read_questions(folders[first], {outcome.id for outcome in before})
    tools = {one.id: {name for call in one.gold or () for name in call} for one in questions.values()}
    sources = {one.id: {one.source} for one in questions.values()}
    return [
        _label_table(what, first, last, by_label(before, after, labels))
        for what, labels in (("tool", tools), ("source", sources))
    ]


def _label_table(what: str, first: str, last: str, found: Mapping[str, Label]) -> Table:
    changed = [(name, label) for name, label in found.items() if label.gained or label.lost]
    worst, best = changed[:NAMED], changed[NAMED:][-NAMED:]
    return Table(
        f"by {what}, from {first} to {last}",
        [what, "questions", first, last, "gained", "lost"],
        [[name, one.questions, *_shares(one), len(one.gained), len(one.lost)] for name, one in (*worst, *best)],
        note=f"{len(changed):,} of {len(found):,} changed; at most {NAMED} that lost most and {NAMED} that gained most "
        "are shown, in that order. A question that asks for several counts for each.",
    )


def _shares(label: Label) -> list[str]:
    return [percent(right / label.questions) for right in (label.before, label.after)]


def _category_tables(compared: Compared) -> list[Block]:
    scores = compared.scores
    first = next(iter(scores.values()))
    return [
        Table(
            "categories",
            ["category", "asked", "of", *scores],
            [
                [category, entry.n, entry.of, *(share(one.categories[category]) for one in scores.values())]
                for category, entry in first.categories.items()
            ],
        ),
        Table(
            "paired differences by category",
            [*PAIRED_COLUMNS[:4], "gained", "lost", *PAIRED_COLUMNS[4:], "p"],
            [row for pair, comparison in compared.pairs.items() for row in _category_rows(pair, comparison)],
            note="Categories in which something changed: gained became right, lost became wrong. p is McNemar's exact "
            "test; of many rows, one in twenty is below 0.05 by chance.",
        ),
    ]


def _category_rows(pair: tuple[str, str], comparison: Comparison) -> list[list[Any]]:
    rows = []
    for category, found in comparison.changes.items():
        if found.gained + found.lost:
            questions, *difference = _difference(comparison.category_difference(category))
            rows.append([*pair, category, questions, found.gained, found.lost, *difference, f"{found.p:.3g}"])
    return rows


def _difference(difference: Difference) -> list[Any]:
    low, high = 100 * difference.low, 100 * difference.high
    return [difference.questions, f"{100 * difference.mean:+.1f}", f"[{low:+.1f}, {high:+.1f}]"]
