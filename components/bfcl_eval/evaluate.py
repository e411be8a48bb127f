"""BFCL evaluation: base, warm-up and final model on the same questions, or one model alone.

Each evaluation directory holds scores.json, generations/ in the official tool's result layout and report.html. One
base model is loaded, adapters are put on and taken off; a model whose weights were all trained is loaded in its place.
Questions, decoding, grading, scores and pages have modules of their own; nothing is trained or registered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.bfcl_eval import generations, pages
from components.bfcl_eval.grading import OFFICIAL_NAME, Verdict, grade
from components.bfcl_eval.questions import Question, evaluator, load_questions, questions_digest
from components.bfcl_eval.scores import (
    MODELS,
    SCORES,
    Graded,
    category_scores,
    flat_metrics,
    official_groups,
    run_groups,
)
from components.files import write_json
from components.function_calls.parse import parse_turn
from components.function_calls.prompt import PROMPT_VERSION
from components.settings import BfclEvalSettings
from components.stages.stage import Outputs

if TYPE_CHECKING:
    from components.language_models.model_directory import LoadedModel


def run(config: BfclEvalSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Evaluate the base model, the warm-up's and EGPO's into base/, sft_warmup/ and egpo_rl/ of the stage folder.

    Args:
        inputs: `sft_warmup` and `egpo_rl`, stage folders with a `model/` each; their cards name the base model.

    Returns:
        `<model>.<category>`, `<model>.<group>`, `<model>.official_overall`.

    Raises:
        InputError: an unknown category, bfcl-eval is not there, a model is not there or does not fit its base.
    """
    questions = load_questions(config.categories, config.sample_per_category, config.seed)
    from components.language_models.base_models import resolve_base_model, weights_digest
    from components.language_models.model_directory import (
        LoadedModel,
        holds_adapter,
        load_adapter,
        load_base,
        load_for_inference,
        read_card,
    )

    folders = {name: inputs[name] / "model" for name in ("sft_warmup", "egpo_rl")}
    cards = {name: read_card(folder) for name, folder in folders.items()}
    base_path = resolve_base_model(cards["sft_warmup"].base_model.reference)
    base_model = {"reference": cards["sft_warmup"].base_model.reference, "sha256": weights_digest(base_path)}

    held: dict[str, Any] = {"base": None, "adapted": None}

    def load(name: str) -> LoadedModel:
        """The base once; an adapter on it, after the one before is taken off; or a whole model, alone in memory."""
        if name in folders and not holds_adapter(folders[name]):
            held.update(base=None, adapted=None)
            return load_for_inference(folders[name], config.dtype)
        base = held["base"] or load_base(base_path, config.dtype)
        if held["adapted"] is not None:
            base = LoadedModel(held["adapted"].model.unload(), base.tokenizer, base.path)
        held["base"] = base
        held["adapted"] = load_adapter(base, folders[name], trainable=False) if name in folders else None
        return held["adapted"] or base

    found: dict[str, pages.Evaluation] = {}
    for name in MODELS:
        weights = weights_digest(folders[name]) if name in folders else base_model["sha256"]
        model = {"stage": name, "base_model": base_model, "weights_sha256": weights}
        found[name] = _evaluate(name, model, partial(load, name), questions, config, outputs, outputs.folder / name)
    pages.write_comparison(outputs.folder / "report.html", questions, found)
    columns, rows = pages.tracked_table(found)
    outputs.tracker.log_table([dict(zip(columns, row, strict=True)) for row in rows], "bfcl_eval/scores")
    return {
        f"{name}.{metric}": value
        for name, evaluation in found.items()
        for metric, value in flat_metrics(evaluation.scores).items()
    }


def run_one(config: BfclEvalSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Evaluate one model; the stage folder itself is the evaluation directory.

    Args:
        inputs: `model`: a model directory (adapter, merged or base) or a stage folder with one in `model/`.
    """
    questions = load_questions(config.categories, config.sample_per_category, config.seed)
    from components.language_models.base_models import resolve_base_model, weights_digest
    from components.language_models.model_directory import holds_adapter, load_for_inference

    folder = inputs["model"]
    folder = folder / "model" if (folder / "model").is_dir() else folder
    weights = folder if holds_adapter(folder) else resolve_base_model(str(folder))
    evaluation = _evaluate(
        folder.name,
        {"reference": str(folder), "weights_sha256": weights_digest(weights)},
        lambda: load_for_inference(folder, config.dtype),
        questions,
        config,
        outputs,
        outputs.folder,
    )
    return flat_metrics(evaluation.scores)


def _evaluate(
    name: str,
    model: dict[str, Any],
    load: Callable[[], LoadedModel],
    questions: list[Question],
    config: BfclEvalSettings,
    outputs: Outputs,
    folder: Path,
) -> pages.Evaluation:
    """One evaluation directory."""
    digest = questions_digest(questions)
    fingerprint = generations.fingerprint(model, digest, PROMPT_VERSION, config)
    journal = generations.Journal(outputs.checkpoints / f"{name}.jsonl", fingerprint)
    answers = generations.generate(MODELS.get(name, name), load, questions, config, journal)
    generations.write_results(folder / "generations", questions, answers)
    graded = [grade_answer(question, answer) for question, answer in zip(questions, answers, strict=True)]
    categories = category_scores(graded)
    accuracy = {category: entry["accuracy"] for category, entry in categories.items()}
    asked, of = len(questions), sum(entry["of"] for entry in categories.values())
    scores = {
        "model": model,
        "evaluator": evaluator(),
        "prompt_version": PROMPT_VERSION,
        "seed": config.seed,
        "sampling": config.model_dump(
            mode="json", include={"temperature", "max_new_tokens", "max_prompt_tokens", "dtype"}
        ),
        "questions": {
            "asked": asked,
            "of": of,
            "is_sample": asked < of,
            "sample_per_category": config.sample_per_category,
            "ids_sha256": digest,
        },
        "categories": categories,
        "over_what_was_run": run_groups(accuracy),
        "official": official_groups(accuracy),
        "rescore": rescore_command(categories),
    }
    write_json(folder / SCORES, scores)
    evaluation = pages.Evaluation(scores, answers, graded)
    pages.write_page(folder / "report.html", MODELS.get(name, name), questions, evaluation)
    return evaluation


def rescore_command(categories: Iterable[str]) -> str:
    """What scores the generations again with the official tool, run in the evaluation directory."""
    names = ",".join(categories)
    return (
        f'BFCL_PROJECT_ROOT="$PWD" bfcl evaluate --model {OFFICIAL_NAME} --test-category {names} '
        "--result-dir generations --score-dir score --partial-eval"
    )


def grade_answer(question: Question, answer: generations.Generation) -> Graded:
    """The outcome of one question; a prompt that was too long to be asked counts as wrong."""
    verdict = Verdict(False, "prompt_too_long") if answer.too_long else grade(question, answer.result)
    form = "not_asked" if answer.too_long else parse_turn(answer.turn).reason
    return Graded(
        question.id,
        question.category,
        verdict.right,
        verdict.reason,
        form,
        answer.finished,
        answer.output_token_count,
    )
