"""BFCL evaluation: one model makes one evaluation directory; the stage of the pipeline makes three, and compares them.

An evaluation directory holds scores.json and outcomes.jsonl (components/evaluations/schema.py), generations/ in the
official tool's result layout and report.html. Questions, decoding, grading, models and pages have modules of their
own; nothing is trained or registered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from components.bfcl_eval import generations, pages
from components.bfcl_eval.grading import OFFICIAL_NAME, Grade, grade
from components.bfcl_eval.questions import Question, evaluator, load_questions
from components.bfcl_eval.summary import MODELS
from components.evaluations.groups import SIZES
from components.evaluations.schema import (
    Evaluation,
    Outcome,
    Sampling,
    flat_metrics,
    make_scores,
    questions_digest,
    write_evaluation,
)
from components.files import sha256_of_json
from components.function_calls.parse import parse_turn
from components.function_calls.prompt import PROMPT_VERSION
from components.settings import BfclEvalSettings
from components.stages.outputs import Outputs

if TYPE_CHECKING:
    from components.bfcl_eval.models import Answering, Subject

ADAPTERS = "adapters"  # folder beside the journals, where vLLM finds what it shall load


def run(config: BfclEvalSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Evaluate the base model, the warm-up's and EGPO's into base/, sft_warmup/ and egpo_rl/, and compare them.

    A model with the weights of one before it (EGPO of no step) is not asked again: it has the same answers.

    Args:
        inputs: `sft_warmup` and `egpo_rl`, stage folders with a `model/` each; their cards name the base model.

    Returns:
        `<model>.<category>`, `<model>.mean_<group>`, `<model>.official_overall`.

    Raises:
        InputError: an unknown category, bfcl-eval is not there, a model is not there or does not fit its base.
    """
    questions = load_questions(config.categories, config.sample_per_category, config.seed)
    from components.bfcl_eval.models import Models, find_subject
    from components.language_models.model_card import read_card

    folders = {name: inputs[name] / "model" for name in ("sft_warmup", "egpo_rl")}
    reference = read_card(folders["sft_warmup"]).base_model.reference
    places: dict[str, Path | str] = {"base": reference, **folders}
    subjects = {name: find_subject(places[name], label) for name, label in MODELS.items()}
    models = Models(config, list(subjects.values()), outputs.checkpoints / ADAPTERS)
    found = {
        name: evaluate_model(
            subject, partial(models.open, subject), questions, config, outputs.folder / name, outputs.checkpoints
        )
        for name, subject in subjects.items()
    }
    pages.write_comparison(outputs.folder / "report.html", questions, found)
    outputs.tracker.log_table(pages.tracked_table(found), "bfcl_eval/scores")
    return {
        f"{name}.{metric}": value
        for name, answered in found.items()
        for metric, value in flat_metrics(answered.evaluation.scores).items()
    }


def run_one(config: BfclEvalSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Evaluate one model; the stage folder itself is the evaluation directory.

    Args:
        inputs: `model`: a model directory (adapter, merged or base) or a stage folder with one in `model/`.
    """
    questions = load_questions(config.categories, config.sample_per_category, config.seed)
    from components.bfcl_eval.models import Models, find_subject

    subject = find_subject(inputs["model"], inputs["model"].name)
    models = Models(config, [subject], outputs.checkpoints / ADAPTERS)
    answered = evaluate_model(
        subject, partial(models.open, subject), questions, config, outputs.folder, outputs.checkpoints
    )
    return flat_metrics(answered.evaluation.scores)


def evaluate_model(
    subject: Subject,
    open_model: Callable[[], Answering],
    questions: Sequence[Question],
    config: BfclEvalSettings,
    folder: Path,
    checkpoints: Path,
) -> pages.Answered:
    """Ask one model and write one evaluation directory.

    Args:
        open_model: called only when a question is left to answer.
        checkpoints: holds what was answered, in a journal for each model: a killed run goes on from it.
    """
    sampling = Sampling(
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        max_prompt_tokens=config.max_prompt_tokens,
        dtype=config.dtype,
        sampler=config.sampler,
    )
    digest = questions_digest(question.id for question in questions)
    decides = [subject.identity, digest, PROMPT_VERSION, sampling.model_dump(), config.seed]
    journal = generations.Journal(
        checkpoints / f"{sha256_of_json(subject.identity)[:16]}.jsonl", sha256_of_json(decides)
    )
    answers = generations.generate(subject.model.name, open_model, questions, config, journal)
    generations.write_results(folder / "generations", questions, answers)
    outcomes = [grade_answer(question, answer) for question, answer in zip(questions, answers, strict=True)]
    scores = make_scores(
        outcomes,
        SIZES,
        model=subject.model,
        evaluator=evaluator(),
        prompt_version=PROMPT_VERSION,
        seed=config.seed,
        sampling=sampling,
        sample_per_category=config.sample_per_category,
        rescore=rescore_command(config.categories),
    )
    answered = pages.Answered(Evaluation(scores, outcomes), answers)
    write_evaluation(folder, answered.evaluation)
    pages.write_page(folder / "report.html", questions, answered)
    return answered


def rescore_command(categories: Iterable[str]) -> str:
    """What scores the generations again with the official tool, run in the evaluation directory."""
    names = ",".join(categories)
    return (
        f'BFCL_PROJECT_ROOT="$PWD" bfcl evaluate --model {OFFICIAL_NAME} --test-category {names} '
        "--result-dir generations --score-dir score --partial-eval"
    )


def grade_answer(question: Question, answer: generations.Generation) -> Outcome:
    """The outcome of one question; one that could not be asked counts as wrong."""
    asked = not (answer.too_long or answer.refused)
    why = "prompt_refused" if answer.refused else "prompt_too_long"
    graded = grade(question, answer.result) if asked else Grade(False, why)
    return Outcome(
        id=question.id,
        category=question.category,
        right=graded.right,
        reason=graded.reason,
        form=parse_turn(answer.turn).reason if asked else "not_asked",
        finished=answer.finished,
        prompt_tokens=answer.input_token_count,
        completion_tokens=answer.output_token_count,
    )
