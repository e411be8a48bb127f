"""Where a model version comes from, as the tags it is registered with. Reads; registers nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.evaluations.schema import Evaluation, flat_metrics
from components.language_models.model_card import ModelCard
from components.services.mlflow_server import RUN_TAG

HEADLINES = (
    ("own.calls", "own calls right"),
    ("own.no_call", "no call where none fits on own records"),
    ("bfcl.mean_calls", "BFCL calls right"),
    ("bfcl.mean_irrelevance", "no call where none fits"),
)
REGISTERED = (
    RUN_TAG, "callforge.stage", "callforge.commit", "callforge.base_model", "callforge.prompt_version",
    "callforge.dtype", "callforge.manifest_sha256", "callforge.evaluation", "callforge.base_evaluation",
    "bfcl.questions",
)  # fmt: skip


def lineage_tags(card: ModelCard, run_id: str, evaluation: Evaluation | None) -> dict[str, str]:
    """Tags that lead back to run, code, data, base model and scores.

    Args:
        card: callforge.json of the model; its `parents` are digests of what it was made from (records, adapters).
        run_id: of the pipeline's run.
        evaluation: of the model, None when there is none.
    """
    tags = {
        RUN_TAG: run_id,
        "callforge.stage": card.stage,
        "callforge.commit": commit(),
        "callforge.prompt_version": card.prompt_version,
        "callforge.base_model": card.base_model.reference,
        "callforge.base_model_sha256": card.base_model.sha256,
    }
    tags |= {f"callforge.parent.{name}": digest for name, digest in sorted(card.parents.items())}
    tags |= {f"callforge.library.{name}": text for name, text in sorted(card.library_versions.items())}
    return tags | (score_tags(evaluation) if evaluation else {})


def registered_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Of the tags those that are registered: what callforge and people look for. The rest is in the model's card
    (callforge.json), in its scores.json, and in registration.json.
    """
    kept = ("kfp.", "bfcl.mean_", "own.")
    return {name: text for name, text in tags.items() if name in REGISTERED or name.startswith(kept)}


def description(tags: Mapping[str, str]) -> str:
    """A version in words, as Markdown."""
    text = f"{tags['callforge.stage']} of run {tags[RUN_TAG]} on {tags['callforge.base_model']}"
    figures = [f"{what} {100 * float(tags[tag]):.1f} %" for tag, what in HEADLINES if tag in tags]
    scored = f"{', '.join(figures)} ({tags['bfcl.questions']} questions)" if figures else "not evaluated"
    return f"{text}. {scored[0].upper()}{scored[1:]}. Weights, tokenizer and callforge.json are below the source path."


def score_tags(evaluation: Evaluation) -> dict[str, str]:
    """`bfcl.<category>` and `bfcl.mean_<mean>` as shares of 1, the official overall, what they were measured with; and
    `own.calls`, `own.no_call` where own records were asked.

    For people who look at a version; the gate decides by the evaluation itself (evidence.py).
    """
    scores, own = evaluation.scores, {}
    if evaluation.own is not None:
        asked = evaluation.own.scores
        own = {f"own.{name.removeprefix('own_')}": f"{share:.4f}" for name, share in flat_metrics(asked).items()}
        own |= {"own.questions": f"{asked.questions.asked} of {asked.questions.of}", "own.data": asked.evaluator.data}
    sampling = scores.sampling.model_dump(mode="json") | {"prompt": scores.prompt_version}
    return (
        own
        | {f"bfcl.{name}": f"{share:.4f}" for name, share in flat_metrics(scores).items()}
        | {
            "bfcl.evaluator": f"{scores.evaluator.name} {scores.evaluator.version}",
            "bfcl.questions": f"{scores.questions.asked} of {scores.questions.of}",
            "bfcl.questions_sha256": scores.questions.ids_sha256,
            "bfcl.sampling": json.dumps(sampling, sort_keys=True),
        }
    )


def kfp_tags(client: Any, mlflow_run: str) -> dict[str, str]:
    """The kfp.* tags that KFP's MLflow plugin set on the run or on its parent, the pipeline's run."""
    found: dict[str, str] = {}
    while mlflow_run:
        tags = client.get_run(mlflow_run).data.tags
        found = {name: value for name, value in tags.items() if name.startswith("kfp.")} | found
        mlflow_run = tags.get("mlflow.parentRunId", "")
    return found


def commit() -> str:
    """The commit of callforge: CALLFORGE_COMMIT (set in the images), else git's, `unknown` without either."""
    if named := os.environ.get("CALLFORGE_COMMIT"):
        return named
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
