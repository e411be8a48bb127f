"""The table that a run ends with, read from the evaluation directories of the stage folder. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from components.errors import InputError
from components.evaluations.groups import HEADLINES, OWN, OWN_CALLS
from components.evaluations.schema import CategoryScore, GroupScore, Scores, holds_evaluation, read_scores

MODELS = {"base": "base", "sft_warmup": "warm-up", "egpo_rl": "EGPO"}  # folder and the name people read
OWN_FOLDER = "own"  # below the stage folder: evaluations on held-out records
CALLING = (OWN_CALLS, "calls")  # headlines of questions that want a call
FEW = 100  # questions of a kind, below which its interval is 20 points wide and more


def summary_table(stage_folder: Path) -> tuple[list[str], list[list[str]], str]:
    """Columns, rows and a note: the held-out records, then BFCL; headlines with their intervals, then BFCL's
    categories; a column for each model.

    Raises:
        InputError: `stage_folder` is not one of bfcl_eval, or a scores.json in it is not ours.
    """
    rows: list[list[str]] = []
    notes: list[str] = []
    columns: list[str] = []
    for title, folder in (("held-out records", stage_folder / OWN_FOLDER), ("BFCL", stage_folder)):
        found = {name: read_scores(folder / name) for name in MODELS if holds_evaluation(folder / name)}
        if found:
            columns = ["right answers", "questions", *(MODELS[name] for name in found)]
            rows += _rows(title, found)
            notes.append(small_sample(found))
    if not rows:
        raise InputError(f"evaluation {stage_folder}: there is no evaluation of {', '.join(MODELS)} in it")
    return columns, rows, next(filter(None, notes), "")


def _rows(title: str, found: Mapping[str, Scores]) -> Iterator[list[str]]:
    first = next(iter(found.values()))
    for group in headlines_of(first):
        cells = [share(scores.groups[group]) for scores in found.values()]
        yield [f"{title}: {headline(group)}", f"{first.groups[group].questions:,}", *cells]
    for category, entry in first.categories.items():
        if category not in OWN:
            cells = [percent(scores.categories[category].accuracy) for scores in found.values()]
            yield [f"  {category}", asked(entry), *cells]


def headlines_of(scores: Scores) -> list[str]:
    """The groups that people read first, of those that were asked."""
    return [group for group in (*OWN, *HEADLINES) if group in scores.groups]


def headline(group: str) -> str:
    """What people call a headline; other groups keep their name."""
    if group in CALLING:
        return "calls"
    return "no call fits" if group in (*OWN, *HEADLINES) else group


def small_sample(found: Mapping[str, Scores]) -> str:
    """A sentence where the questions are too few to say much; "" where they are not."""
    first = next(iter(found.values()))
    if not any(first.groups[name].questions < FEW for name in headlines_of(first)):
        return ""
    return (
        "Few questions: read the 95 % intervals in brackets, not the percentages. A model that never calls is right "
        "wherever no call is."
    )


def asked(entry: CategoryScore) -> str:
    """How many questions, and of how many."""
    return f"{entry.n:,}" if entry.n == entry.of else f"{entry.n:,} of {entry.of:,}"


def percent(value: float) -> str:
    """A share for people."""
    return f"{100 * value:.1f} %"


def share(entry: CategoryScore | GroupScore) -> str:
    """A share for people, with its interval."""
    low, high = entry.interval
    return f"{percent(entry.accuracy)} [{100 * low:.0f}, {100 * high:.0f}]"
