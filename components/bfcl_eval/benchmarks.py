"""What a model is asked: which questions, who grades them, and where its evaluation is in the model's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.bfcl_eval.grading import OFFICIAL_NAME
from components.bfcl_eval.own_records import load_own_questions
from components.bfcl_eval.questions import Question, evaluator, load_questions
from components.errors import InputError
from components.evaluations.directory import OWN_FOLDER
from components.evaluations.means import SIZES
from components.evaluations.schema import Evaluator
from components.services.events import say
from components.settings import BfclEvalSettings
from components.stages.refined_records import HELD_OUT, own_records_file


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Questions and their evaluator.

    folder: below the folder of a model, "" for itself. sizes: how many questions there are of each category. rescore:
    the command that grades the generations again, where a tool of others can.
    """

    name: str
    folder: str
    questions: Sequence[Question]
    sizes: Mapping[str, int]
    evaluator: Evaluator
    sample_per_category: int
    rescore: str = ""


def benchmarks(config: BfclEvalSettings, refined: Path | None = None) -> list[Benchmark]:
    """One's own records, where there are some, and BFCL: in the order in which they are asked and shown.

    Args:
        refined: the folder of data_refine, whose held-out records are asked where the settings name no others.

    Raises:
        InputError: as `bfcl` does, an own record cannot be read, or the file that the settings name has none.
    """
    if not config.own_records:
        return [bfcl(config)]
    file = own_records_file(config.records)
    if not file and refined is not None and (refined / HELD_OUT).exists():
        file = str(refined / HELD_OUT)
    if not file:
        return [bfcl(config)]
    questions, sizes, own = load_own_questions(file, config.own_records, config.seed)
    if not questions:
        if config.records:
            raise InputError(f"bfcl_eval.records: {file}: there is no record in it")
        say("no record was held out (data_refine.held_out_share): only BFCL is asked")
        return [bfcl(config)]
    own_records = Benchmark(
        name="own records",
        folder=OWN_FOLDER,
        questions=questions,
        sizes=sizes,
        evaluator=own,
        sample_per_category=config.own_records,
    )
    return [own_records, bfcl(config)]


def bfcl(config: BfclEvalSettings) -> Benchmark:
    """The leaderboard's questions of the categories that are asked.

    Raises:
        InputError: an unknown category, or bfcl-eval is not installed.
    """
    return Benchmark(
        name="BFCL",
        folder="",
        questions=load_questions(config.categories, config.sample_per_category, config.seed),
        sizes=SIZES,
        evaluator=evaluator(),
        sample_per_category=config.sample_per_category,
        rescore=rescore_command(config.categories),
    )


def rescore_command(categories: Iterable[str]) -> str:
    """What scores the generations again with the official tool, run in the evaluation directory."""
    names = ",".join(categories)
    return (
        f'BFCL_PROJECT_ROOT="$PWD" bfcl evaluate --model {OFFICIAL_NAME} --test-category {names} '
        "--result-dir generations --score-dir score --partial-eval"
    )
