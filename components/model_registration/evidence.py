"""The evaluations that the gate decides by: put beside the weights in S3 by registration, found again by a version's
tags at promotion. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.errors import InputError
from components.evaluations.directory import (
    OUTCOMES,
    OWN_FOLDER,
    SCORES,
    evaluation_folder,
    holds_evaluation,
    read_evaluation,
    read_scores,
)
from components.evaluations.schema import Evaluation
from components.files import sha256_of_file, sha256_of_json
from components.model_registration.gate import Decision, against_base, against_champion, refused
from components.services.storage import upload_file

EVALUATION_TAG, BASE_EVALUATION_TAG = "callforge.evaluation", "callforge.base_evaluation"


def find_evaluations(folder: Path, weights_sha256: str, base_sha256: str) -> dict[str, Path]:
    """The model's evaluation directory and, where there is one beside it, its base's, by the tag that leads to each.

    They are told by the weights that were evaluated: `folder` is one itself, or holds some under any names.

    Raises:
        InputError: there is none, one is not ours, or none is of those very weights; promotion decides by it.
    """
    places = [folder] if holds_evaluation(folder) else [path for path in _folders(folder) if holds_evaluation(path)]
    found = {read_scores(place).model.weights_sha256: place for place in places}
    if weights_sha256 not in found:
        others = ", ".join(f"{place} is of {sha}" for sha, place in found.items()) or "there is no evaluation directory"
        raise InputError(
            f"evaluation {folder}: it is not of this model, whose weights have the sha256 {weights_sha256} ({others}); "
            "evaluate this model, or name the evaluation of it"
        )
    wanted = {EVALUATION_TAG: weights_sha256, BASE_EVALUATION_TAG: base_sha256}
    return {tag: found[sha] for tag, sha in wanted.items() if sha in found}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def publish_evaluation(folder: Path, root: str) -> str:
    """Upload scores and outcomes, those on own records as well, to a place below `root` that is named by their content;
    returns its address."""
    files = [f"{below}{name}" for below in (f"{OWN_FOLDER}/", "") for name in (OUTCOMES, SCORES)]
    shas = {name: sha256_of_file(folder / name) for name in files if (folder / name).exists()}
    uri = f"{root}/evaluations/{sha256_of_json(shas)[:16]}"
    for name in shas:
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
            "there is no champion, and its base was not evaluated beside it; evaluate both (`callforge evaluate BASE "
            "MODEL --out DIR`) and register the model with --evaluation DIR"
        )
    return against_base(_fetched(candidate[EVALUATION_TAG]), _fetched(candidate[BASE_EVALUATION_TAG]))


def _fetched(uri: str) -> Evaluation:
    with evaluation_folder(uri) as folder:
        return read_evaluation(folder)
