"""The table that a run ends with, read from the evaluation directories of the stage folder. Loads no model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.errors import InputError
from components.evaluations.groups import HEADLINES
from components.evaluations.schema import CategoryScore, GroupScore, Scores, holds_evaluation, read_scores

MODELS = {"base": "base", "sft_warmup": "warm-up", "egpo_rl": "EGPO"}  # folder and the name people read
FEW = 100  # questions of a kind, below which its interval is 20 points wide and more


def summary_table(stage_folder: Path) -> tuple[list[str], list[list[str]], str]:
    """Columns, rows and a note: both headlines with their intervals, then each category; a column for each model.

    Raises:
        InputError: `stage_folder` is not one of bfcl_eval, or a scores.json in it is not ours.
    """
    found = {name: read_scores(stage_folder / name) for name in MODELS if holds_evaluation(stage_folder / name)}
    if not found:
        raise InputError(f"evaluation {stage_folder}: there is no evaluation of {', '.join(MODELS)} in it")
    columns = ["BFCL", "questions", *(MODELS[name] for name in found)]
    first = next(iter(found.values()))
    rows = []
    for group in HEADLINES:
        if all(group in scores.groups for scores in found.values()):
            cells = [share(scores.groups[group]) for scores in found.values()]
            rows.append([group, f"{first.groups[group].questions:,}", *cells])
    for category, entry in first.categories.items():
        if all(category in scores.categories for scores in found.values()):
            cells = [percent(scores.categories[category].accuracy) for scores in found.values()]
            rows.append([f"  {category}", asked(entry), *cells])
    return columns, rows, small_sample(found)


def small_sample(found: Mapping[str, Scores]) -> str:
    """A sentence where the questions are too few to say much; "" where they are not."""
    first = next(iter(found.values()))
    few = [name for name in HEADLINES if name in first.groups and first.groups[name].questions < FEW]
    if not few:
        return ""
    return (
        f"Few questions: read the 95 % intervals of {' and '.join(few)} in brackets, not the percentages. A model that "
        "never calls has every irrelevance question right."
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
