"""What one evaluation directory is about: which questions, who grades them, and where it is in the stage folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.bfcl_eval.grading import OFFICIAL_NAME
from components.bfcl_eval.own_records import load_own_questions
from components.bfcl_eval.questions import Question, evaluator, load_questions
from components.bfcl_eval.summary import OWN_FOLDER
from components.evaluations.groups import SIZES
from components.evaluations.schema import Evaluator
from components.services.events import say
from components.settings import BfclEvalSettings


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Questions and their evaluator.

    items: what it asks, for a sentence. folder: below the stage folder, "" for itself. sizes: how many questions there
    are of each category. rescore: the command that grades the generations again, where a tool of others can.
    """

    name: str
    items: str
    folder: str
    questions: Sequence[Question]
    sizes: Mapping[str, int]
    evaluator: Evaluator
    sample_per_category: int
    rescore: str = ""


def bfcl(config: BfclEvalSettings) -> Benchmark:
    """The leaderboard's questions of the categories that are asked.

    Raises:
        InputError: an unknown category, or bfcl-eval is not installed.
    """
    return Benchmark(
        name="BFCL",
        items="BFCL questions",
        folder="",
        questions=load_questions(config.categories, config.sample_per_category, config.seed),
        sizes=SIZES,
        evaluator=evaluator(),
        sample_per_category=config.sample_per_category,
        rescore=rescore_command(config.categories),
    )


def benchmarks(config: BfclEvalSettings, records: Path | None) -> list[Benchmark]:
    """The run's own held-out records, where there are some, and BFCL: in the order in which they are shown.

    Args:
        records: the folder of data_refine.

    Raises:
        InputError: as `bfcl` does, or a held-out record cannot be read.
    """
    if records is None or not config.own_records:
        return [bfcl(config)]
    questions, sizes, own = load_own_questions(records, config.own_records, config.seed)
    if not questions:
        say("no record was held out (data_refine.held_out_share): only BFCL is asked")
        return [bfcl(config)]
    held_out = Benchmark(
        name="held-out records",
        items="held-out prompts",
        folder=OWN_FOLDER,
        questions=questions,
        sizes=sizes,
        evaluator=own,
        sample_per_category=config.own_records,
    )
    return [held_out, bfcl(config)]


def rescore_command(categories: Iterable[str]) -> str:
    """What scores the generations again with the official tool, run in the evaluation directory."""
    names = ",".join(categories)
    return (
        f'BFCL_PROJECT_ROOT="$PWD" bfcl evaluate --model {OFFICIAL_NAME} --test-category {names} '
        "--result-dir generations --score-dir score --partial-eval"
    )
