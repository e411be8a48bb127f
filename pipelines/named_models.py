"""A model as a person names it on the command line: of a run, of the registry, of the hub, in S3, or a directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InputError
from components.files import expand_home, is_folder
from components.services.storage import is_remote, names_below
from components.stages.catalogue import STAGES, Stage
from components.stages.folder import MANIFEST, read_config, read_manifest
from components.stages.publishing import resolve_published
from pipelines.local import RUNS, shown
from pipelines.local_pipeline import REQUEST

if TYPE_CHECKING:
    from components.language_models.base_models import ResolvedModel

TRAINING = [stage for stage in STAGES if "model/**/*" in stage.content]


def find_model(reference: str) -> str:
    """A reference that `resolve_model` takes: of a run, what it trained last; of the registry, where the weights are;
    of a stage that was published, the model of the attempt that its pointer names.

    Raises:
        InputError: the run has trained nothing yet; no such registered model, version or alias.
        WorkError: the registry or S3 failed.
    """
    from components.model_registration.registry import MODELS, version_source

    if reference.startswith(MODELS):
        return version_source(reference)
    if is_remote(reference):  # before it is fetched: what is fetched of an address is taken as unchanging
        place = resolve_published(reference)
        return f"{place}/model" if names_below(f"{place}/model") else place
    for folder in (expand_home(reference), RUNS / reference):
        if not (is_folder(folder) and (folder / REQUEST).is_file()):
            continue
        for stage in reversed(TRAINING):
            if (folder / stage.name / MANIFEST).is_file() and _is_of_this_run(stage, folder):
                return shown((folder / stage.name / "model").absolute())
        raise InputError(
            f"model {reference}: the run in {folder} has trained no model yet; `callforge run --run-id {folder.name}` "
            "goes on with it"
        )
    return reference


def _is_of_this_run(stage: Stage, run: Path) -> bool:
    """Whether the stage went on from the model that the run holds now: one before it may have been done again."""
    config = read_config(run / stage.name)
    went_on_from = config.identity.get("inputs", {}) if config else {}
    trained = [item.name for item in TRAINING]
    before = {name: read_manifest(run / source) for name, source in stage.inputs.items() if source in trained}
    return all(item is not None and went_on_from.get(name) == item.content for name, item in before.items())


def model_folder(reference: str) -> Path:
    """A model's directory here, or the folder of the stage that wrote it; fetched first where it is elsewhere.

    Raises:
        InputError, WorkError: as `find_model`, or there is no such model.
    """
    place = find_model(reference)
    return expand_home(place) if is_folder(expand_home(place)) else resolved(place).path


def resolved(place: str) -> ResolvedModel:
    """The model there; an error names what else could have been meant."""
    from components.language_models.base_models import resolve_model

    try:
        return resolve_model(place)
    except InputError as error:
        if is_folder(expand_home(place)) or "://" in place:
            raise
        runs = sorted((path.parent for path in RUNS.glob(f"*/{REQUEST}")), key=lambda path: path.stat().st_mtime)
        known = ", ".join(path.name for path in runs[-5:]) or "none"
        raise InputError(
            f"{error}. Nor is it a run of this directory (the latest: {known}); a registered model is written "
            "models:/NAME@ALIAS or models:/NAME/VERSION"
        ) from None
