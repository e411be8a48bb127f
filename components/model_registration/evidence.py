"""The evaluations that the gate decides by: put beside the weights in S3 by registration, found again by a version's
tags at promotion. Judges nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from components.errors import InputError
from components.evaluations.schema import OUTCOMES, SCORES, Evaluation, holds_evaluation, read_evaluation, read_scores
from components.files import sha256_of_file, sha256_of_json
from components.model_registration.gate import Decision, against_base, against_champion, refused
from components.services.storage import download_folder, upload_file

EVALUATION_TAG, BASE_EVALUATION_TAG = "callforge.evaluation", "callforge.base_evaluation"


def find_evaluation(folder: Path, weights_sha256: str) -> Path:
    """The evaluation directory of these weights among those in `folder`, whatever they are called; `folder` itself
    where it is one.

    Raises:
        InputError: none of them is of these weights, or one is not ours.
    """
    if holds_evaluation(folder):
        return folder
    evaluated = {path.parent: read_scores(path.parent).model.weights_sha256 for path in folder.glob(f"*/{SCORES}")}
    found = sorted(path for path, sha256 in evaluated.items() if sha256 == weights_sha256)
    if not found:
        there = ", ".join(f"{path.name} ({sha256})" for path, sha256 in sorted(evaluated.items())) or "nothing"
        raise InputError(
            f"evaluation {folder}: these weights (sha256 {weights_sha256}) were not evaluated there, but {there}; "
            "evaluate this model, or name the evaluation of it"
        )
    return found[0]


def evaluation_of(folder: Path, weights_sha256: str) -> Evaluation:
    """The evaluation directory `folder`, of those very weights.

    Raises:
        InputError: it is not one of ours, or says that other weights were evaluated; promotion decides by it.
    """
    evaluation = read_evaluation(folder)
    evaluated = evaluation.scores.model.weights_sha256
    if evaluated != weights_sha256:
        raise InputError(
            f"{folder / SCORES}: these are the scores of other weights (sha256 {evaluated}, the model's is "
            f"{weights_sha256}); evaluate this model, or name the evaluation of it"
        )
    return evaluation


def publish_evaluation(folder: Path, root: str) -> str:
    """Upload scores and outcomes to a place below `root` that is named by their content; returns its address."""
    sha = sha256_of_json({name: sha256_of_file(folder / name) for name in (OUTCOMES, SCORES)})
    uri = f"{root}/evaluations/{sha[:16]}"
    for name in (OUTCOMES, SCORES):
        upload_file(folder / name, f"{uri}/{name}")
    return uri


def decide(candidate: Mapping[str, str], champion: Mapping[str, str] | None) -> Decision:
    """The gate's decision on two versions, by their tags; without a champion the candidate is compared with its base.

    Raises:
        InputError, WorkError: an evaluation that a tag names cannot be read.
    """
    if EVALUATION_TAG not in candidate:
        return refused("it was registered without an evaluation; evaluate it, and register it with --evaluation")
    if champion is not None:
        if EVALUATION_TAG not in champion:
            return refused("the champion was registered without an evaluation; evaluate it and register it again")
        return against_champion(_fetched(candidate[EVALUATION_TAG]), _fetched(champion[EVALUATION_TAG]))
    if BASE_EVALUATION_TAG not in candidate:
        return refused(
            "there is no champion, and its base was not evaluated beside it; evaluate the base into base/ of a folder "
            "and the model into another folder there, and register the model with that folder"
        )
    return against_base(_fetched(candidate[EVALUATION_TAG]), _fetched(candidate[BASE_EVALUATION_TAG]))


def _fetched(uri: str) -> Evaluation:
    with tempfile.TemporaryDirectory(prefix="callforge-") as folder:
        download_folder(uri, Path(folder))
        return read_evaluation(Path(folder))
