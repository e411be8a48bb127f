"""BFCL evaluation: one model makes one evaluation directory; the stage of the pipeline makes three, and compares them.

An evaluation directory holds scores.json and outcomes.jsonl (components/evaluations/schema.py), generations/ in the
official tool's result layout and report.html. Questions, decoding, grading, models and pages have modules of their
own; nothing is trained or registered here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from components.bfcl_eval import generations, pages
from components.bfcl_eval.benchmarks import Benchmark, benchmarks, bfcl
from components.bfcl_eval.grading import Grade, grade
from components.bfcl_eval.own_records import grade_own
from components.bfcl_eval.questions import Question
from components.bfcl_eval.summary import MODELS
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
from components.function_calls.prompt import PROMPT_VERSION, ToolNames
from components.settings import BfclEvalSettings
from components.stages.outputs import Outputs

if TYPE_CHECKING:
    from components.bfcl_eval.models import Answering, Subject

ADAPTERS = "adapters"  # folder beside the journals, where vLLM finds what it is to load


def run(config: BfclEvalSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Evaluate the base model, the warm-up's and EGPO's into base/, sft_warmup/ and egpo_rl/, and compare them. Their
    answers to the records that refinement held out go into own/base/ and so on.

    A model with the weights of one before it (EGPO of no step) is not asked again: it has the same answers.

    Args:
        inputs: `sft_warmup` and `egpo_rl`, stage folders with a `model/` each; their cards name the base model.
            `records` (may be missing), the folder of data_refine.

    Returns:
        `<model>.<category>`, `<model>.mean_<group>`, `<model>.official_overall`.

    Raises:
        InputError: an unknown category, bfcl-eval is not there, a model is not there or does not fit its base.
    """
    asked = benchmarks(config, inputs.get("records"))
    from components.bfcl_eval.models import Models, subject_of
    from components.language_models.base_models import resolve_base_model, resolve_model
    from components.language_models.model_card import read_card

    folders = {name: inputs[name] / "model" for name in ("sft_warmup", "egpo_rl")}
    base = resolve_base_model(read_card(folders["sft_warmup"]).base_model.reference)
    resolved = {"base": base} | {name: resolve_model(folder, base) for name, folder in folders.items()}
    subjects = {name: subject_of(resolved[name], label) for name, label in MODELS.items()}
    models = Models(config, list(subjects.values()), outputs.checkpoints / ADAPTERS)
    found: dict[str, dict[str, pages.Answered]] = {benchmark.folder: {} for benchmark in asked}
    for name, subject in subjects.items():
        for benchmark in asked:
            found[benchmark.folder][name] = evaluate_model(
                subject,
                partial(models.open, subject),
                benchmark,
                config,
                outputs.folder / benchmark.folder / name,
                outputs.checkpoints,
            )
    compared = [(benchmark, found[benchmark.folder]) for benchmark in asked]
    pages.write_comparison(outputs.folder / "report.html", compared)
    for benchmark, answered in compared:
        outputs.log_table(pages.tracked_table(answered), f"{benchmark.folder or 'bfcl'}_scores")
        for number, one in enumerate(answered.values()):  # base, warm-up, EGPO: a curve over the stages
            outputs.log_point(number, flat_metrics(one.evaluation.scores))
    return {
        f"{name}.{metric}": value
        for _, answered in compared
        for name, one in answered.items()
        for metric, value in flat_metrics(one.evaluation.scores).items()
    }


def run_one(config: BfclEvalSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Evaluate one model; the stage folder itself is the evaluation directory.

    Args:
        inputs: `model`: a model directory (adapter, merged or base) or a stage folder with one in `model/`.
    """
    benchmark = bfcl(config)
    from components.bfcl_eval.models import Models, subject_of
    from components.language_models.base_models import resolve_model

    subject = subject_of(resolve_model(inputs["model"]), inputs["model"].name)
    models = Models(config, [subject], outputs.checkpoints / ADAPTERS)
    answered = evaluate_model(
        subject, partial(models.open, subject), benchmark, config, outputs.folder, outputs.checkpoints
    )
    metrics = flat_metrics(answered.evaluation.scores)
    outputs.log_point(0, metrics)
    return metrics


def evaluate_model(
    subject: Subject,
    open_model: Callable[[], Answering],
    benchmark: Benchmark,
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
    questions = benchmark.questions
    digest = questions_digest(question.id for question in questions)
    measured = [digest, benchmark.evaluator.model_dump(), PROMPT_VERSION, sampling.model_dump(), config.seed]
    of_model = sha256_of_json([subject.identity, benchmark.folder])[:16]
    journal = generations.Journal(checkpoints / f"{of_model}.jsonl", sha256_of_json([subject.identity, *measured]))
    asked = f"{benchmark.name}: {subject.model.name}"
    answers = generations.generate(asked, open_model, questions, config, journal)
    generations.write_results(folder / "generations", questions, answers)
    outcomes = [grade_answer(question, answer) for question, answer in zip(questions, answers, strict=True)]
    scores = make_scores(
        outcomes,
        benchmark.sizes,
        model=subject.model,
        evaluator=benchmark.evaluator,
        prompt_version=PROMPT_VERSION,
        seed=config.seed,
        sampling=sampling,
        sample_per_category=benchmark.sample_per_category,
        rescore=benchmark.rescore,
    )
    answered = pages.Answered(Evaluation(scores, outcomes), answers)
    write_evaluation(folder, answered.evaluation)
    pages.write_page(folder / "report.html", benchmark, answered)
    return answered


def grade_answer(question: Question, answer: generations.Generation) -> Outcome:
    """The outcome of one question; one that could not be asked counts as wrong."""
    asked = not (answer.too_long or answer.refused)
    if not asked:
        graded = Grade(False, "prompt_refused" if answer.refused else "prompt_too_long")
    elif question.record is not None:
        graded = grade_own(question, answer.turn, answer.finished)
    else:
        graded = grade(question, answer.result)
    return Outcome(
        id=question.id,
        category=question.category,
        right=graded.right,
        reason=graded.reason,
        form=parse_turn(answer.turn, ToolNames(question.tools)).reason if asked else "not_asked",
        finished=answer.finished,
        prompt_tokens=answer.input_token_count,
        completion_tokens=answer.output_token_count,
    )
