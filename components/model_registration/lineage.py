"""Where a model version comes from, as the tags it is registered with. Reads; registers nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.language_models.model_directory import ModelCard


def lineage_tags(card: ModelCard, run_id: str, scores: Mapping[str, Any]) -> dict[str, str]:
    """Tags that lead back to run, code, data, base model and scores.

    Args:
        card: callforge.json of the model; its `parents` are digests of what it was made from (records, adapters).
        run_id: of the pipeline's run.
        scores: scores.json of the model's evaluation, {} when there is none.
    """
    tags = {
        "callforge.run_id": run_id,
        "callforge.stage": card.stage,
        "callforge.commit": commit(),
        "callforge.prompt_version": card.prompt_version,
        "callforge.base_model": card.base_model.reference,
        "callforge.base_model_sha256": card.base_model.sha256,
    }
    tags |= {f"callforge.parent.{name}": digest for name, digest in sorted(card.parents.items())}
    tags |= {f"callforge.library.{name}": text for name, text in sorted(card.library_versions.items())}
    return tags | score_tags(scores)


def score_tags(scores: Mapping[str, Any]) -> dict[str, str]:
    """`bfcl.<category>` and `bfcl.mean_<group>` as shares of 1, the overalls, and what they were measured with."""
    if not scores:
        return {}
    shares = {name: entry["accuracy"] for name, entry in scores["categories"].items()}
    for name, share in scores["over_what_was_run"].items():
        shares[name if name.startswith("overall") else f"mean_{name}"] = share
    shares["official_overall"] = scores["official"]["overall"]
    questions, evaluator = scores["questions"], scores["evaluator"]
    return {f"bfcl.{name}": f"{share:.4f}" for name, share in shares.items()} | {
        "bfcl.evaluator": f"{evaluator['name']} {evaluator['version']}",
        "bfcl.questions": f"{questions['asked']} of {questions['of']}",
        "bfcl.questions_sha256": questions["ids_sha256"],
        "bfcl.sampling": json.dumps(scores["sampling"] | {"prompt": scores["prompt_version"]}, sort_keys=True),
    }


def read_scores(evaluation: Path, weights_sha256: str) -> dict[str, Any]:
    """scores.json of an evaluation directory; {} when there is none.

    Args:
        weights_sha256: digest of the model's weights (base_models.weights_digest); promotion decides by the scores.

    Raises:
        InputError: the file is no JSON object, or says that other weights were evaluated.
    """
    path = evaluation / "scores.json"
    try:
        scores = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path}: this is no JSON ({error}); evaluate the model again") from None
    if not isinstance(scores, dict):
        raise InputError(f"{path}: an object is wanted; evaluate the model again")
    evaluated = scores.get("model", {}).get("weights_sha256")
    if evaluated != weights_sha256:
        raise InputError(
            f"{path}: these are the scores of other weights (sha256 {evaluated}, the model's is {weights_sha256}); "
            "evaluate this model, or name the evaluation of it"
        )
    return scores


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
