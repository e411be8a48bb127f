"""The evaluation stage: each model makes one evaluation directory, and several are compared (components/evaluations).

An evaluation directory (components/evaluations/directory.py) says what one model was asked, answered, and how that was
graded. Questions, decoding, grading and models have modules of their own; nothing is trained or registered here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.bfcl_eval import generations
from components.bfcl_eval.benchmarks import Benchmark, benchmarks
from components.bfcl_eval.grading import Grade, grade
from components.bfcl_eval.own_records import grade_own
from components.bfcl_eval.questions import Question
from components.evaluations.compare import compare_folders
from components.evaluations.directory import GENERATIONS, OWN_FOLDER, write_evaluation
from components.evaluations.pages import write_model_page
from components.evaluations.schema import (
    Evaluation,
    Outcome,
    Sampling,
    Scores,
    flat_metrics,
    make_scores,
    questions_digest,
)
from components.evaluations.words import is_own
from components.files import sha256_of_json
from components.function_calls.parse import parse_turn
from components.function_calls.prompt import PROMPT_VERSION, ToolNames
from components.settings import BfclEvalSettings
from components.stages.outputs import Outputs

if TYPE_CHECKING:
    from components.bfcl_eval.models import Answering, Models, Subject

MODELS = {"base": "base", "sft_warmup": "warm-up", "egpo_rl": "EGPO"}  # of a run: folder, and the name people read
ADAPTERS = "adapters"  # folder beside the journals, where vLLM finds what it is to load
UNNAMED = "model"  # the input of a single model that nobody gave a name


def run(config: BfclEvalSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Evaluate the base model, the warm-up's and EGPO's into base/, sft_warmup/ and egpo_rl/, and compare them.

    Args:
        inputs: `sft_warmup` and `egpo_rl`, stage folders with a `model/` each; their cards name the base model.
            `records` (may be missing), the folder of data_refine.

    Returns:
        `<model>.<category>`, `<model>.mean_<mean>`, `<model>.official_overall`.

    Raises:
        InputError: an unknown category, bfcl-eval is not there, a model is not there or does not fit its base.
    """
    asked = benchmarks(config, inputs.get("records"))
    from components.bfcl_eval.models import subject_of
    from components.language_models.base_models import resolve_base_model, resolve_model
    from components.language_models.model_card import read_card

    folders = {name: inputs[name] / "model" for name in ("sft_warmup", "egpo_rl")}
    base = resolve_base_model(read_card(folders["sft_warmup"]).base_model.reference)
    resolved = {"base": base} | {name: resolve_model(folder, base) for name, folder in folders.items()}
    subjects = {name: subject_of(resolved[name], label) for name, label in MODELS.items()}
    return _several(config, subjects, asked, outputs)


def run_models(config: BfclEvalSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Evaluate the models that somebody named. One: the stage folder itself is the evaluation directory. Several: each
    has one in a folder of its name, and they are compared.

    Args:
        inputs: by name, model directories (adapter, merged or base) or stage folders with one in `model/`. A single
            one that is called `model` has no name.

    Returns:
        As `run` does; without `<model>.` where there is one.
    """
    asked = benchmarks(config)
    from components.bfcl_eval.models import Models, subject_of
    from components.language_models.base_models import resolve_model

    subjects = {
        name: subject_of(resolve_model(place), "" if name == UNNAMED else name) for name, place in inputs.items()
    }
    if len(subjects) > 1:
        return _several(config, subjects, asked, outputs)
    (subject,) = subjects.values()
    models = Models(config, [subject], outputs.checkpoints / ADAPTERS)
    metrics = _metrics(evaluate_model(subject, models, asked, config, outputs.folder, outputs.checkpoints))
    outputs.log_point(0, metrics)
    return metrics


def _several(
    config: BfclEvalSettings, subjects: Mapping[str, Subject], asked: Sequence[Benchmark], outputs: Outputs
) -> dict[str, float]:
    """Evaluate each model into the folder of its name, and compare them.

    A model with the weights of one before it (EGPO of no step) is not asked again: it has the same answers.
    """
    from components.bfcl_eval.models import Models

    models = Models(config, list(subjects.values()), outputs.checkpoints / ADAPTERS)
    folders = {subject.model.name: outputs.folder / name for name, subject in subjects.items()}
    metrics: dict[str, float] = {}
    for number, (name, subject) in enumerate(subjects.items()):
        folder = folders[subject.model.name]
        found = _metrics(evaluate_model(subject, models, asked, config, folder, outputs.checkpoints))
        outputs.log_point(number, found)  # base, warm-up, EGPO: a curve over the stages
        metrics |= {f"{name}.{metric}": value for metric, value in found.items()}
    together = compare_folders(folders)
    together.write_page(outputs.folder / "report.html")
    for compared, _ in together.benchmarks:
        what = OWN_FOLDER if is_own(next(iter(compared.scores.values()))) else "bfcl"
        outputs.log_table(_tracked_table(compared.scores), f"{what}_scores")
    return metrics


def evaluate_model(
    subject: Subject,
    models: Models,
    asked: Sequence[Benchmark],
    config: BfclEvalSettings,
    folder: Path,
    checkpoints: Path,
) -> Evaluation:
    """Ask one model everything and write its evaluation directory, with its page.

    Args:
        models: opens the model only when a question is left to answer.
        checkpoints: holds what was answered, in a journal for each model: a killed run goes on from it.
    """
    found: dict[str, Evaluation] = {}
    for benchmark in asked:
        place = folder / benchmark.folder
        found[benchmark.folder] = _ask(subject, partial(models.open, subject), benchmark, config, place, checkpoints)
    evaluation = replace(found[""], own=found.get(OWN_FOLDER))
    write_model_page(folder / "report.html", folder, evaluation)
    return evaluation


def _ask(
    subject: Subject,
    open_model: Callable[[], Answering],
    benchmark: Benchmark,
    config: BfclEvalSettings,
    folder: Path,
    checkpoints: Path,
) -> Evaluation:
    """One model's answers to one benchmark, graded and written."""
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
    label = f"{benchmark.name}: {subject.model.name}"
    answers = generations.generate(label, open_model, questions, config, journal)
    generations.write_results(folder / GENERATIONS, questions, answers)
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
    evaluation = Evaluation(scores, outcomes)
    write_evaluation(folder, evaluation, [question.asked() for question in questions])
    return evaluation


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


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    own = flat_metrics(evaluation.own.scores) if evaluation.own else {}
    return own | flat_metrics(evaluation.scores)


def _tracked_table(models: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """Rows of the table that is logged to the tracker."""
    return [
        {"model": name, "category": category, "n": entry.n, "correct": entry.correct, "accuracy": entry.accuracy}
        | dict(zip(("low", "high"), entry.interval, strict=True))
        for name, scores in models.items()
        for category, entry in scores.categories.items()
    ]
