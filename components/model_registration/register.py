"""Merges the adapter, puts the weights into S3 once, and registers them as a version in MLflow.

The order makes a kill at any moment harmless: merged weights are whole or absent, objects are kept under the sha256 of
their manifest and are never overwritten by others, the manifest is uploaded after all it names, a version is made
with its tags in one request and found again by them, the alias moves last. Whether a version is good enough to serve
is not decided here: `candidate` only says that it exists.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from components.errors import InputError, WorkError
from components.evaluations.directory import read_evaluation
from components.files import read_json, sha256_of_file, sha256_of_json, write_json
from components.language_models.base_models import ResolvedModel, resolve_model
from components.language_models.model_card import read_card
from components.language_models.model_directory import Dtype, merge_adapter
from components.model_registration.evidence import EVALUATION_TAG, find_evaluations, publish_evaluation
from components.model_registration.lineage import description, kfp_tags, lineage_tags, registered_tags
from components.model_registration.mlflow_model import MLMODEL, write_mlflow_files
from components.model_registration.page import write_page
from components.services.events import say, warn
from components.services.mlflow_server import RUN_TAG, first_line, mlflow_client, page, server_name, tracking_uri
from components.services.progress import track
from components.services.storage import check_bucket, files_of, upload_file, upload_folder
from components.settings import ModelRegistrationSettings
from components.stages.outputs import Outputs

MANIFEST = "manifest.json"
SHA_TAG = "callforge.manifest_sha256"


def run(config: ModelRegistrationSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Merge, upload, register.

    Args:
        inputs: `model`, the folder of the stage whose `model/` is registered; `evaluation` (may be missing), one with
            evaluation directories of the model and of its base, or the model's only.

    Returns:
        `bytes` of the merged model, its number of `files`, and the `version`, when one was registered.

    Raises:
        InputError: no model there, S3 or MLflow refuse.
        WorkError: S3 or MLflow failed after they had answered; run again to go on.
    """
    card = read_card(inputs["model"] / "model")
    source = resolve_model(inputs["model"] / "model")
    root = outputs.run.artifact_root
    client = mlflow_client() if tracking_uri() else None
    if root:
        check_bucket(root)
    if client and not root:
        raise InputError(
            "run.artifact_root: a registered version needs weights in S3; set s3://bucket/prefix, or unset "
            "MLFLOW_TRACKING_URI to merge without registering"
        )
    evidence: dict[str, Path] = {}  # evaluation directories, by the tag that leads to them
    evaluated = None
    if evaluation := inputs.get("evaluation"):
        evidence = find_evaluations(evaluation, source.sha256, card.base_model.sha256)
        evaluated = {tag: read_evaluation(folder) for tag, folder in evidence.items()}[EVALUATION_TAG]
    merged = outputs.checkpoints / f"merged-{config.save_dtype}"
    files = _merge(source, merged, config.save_dtype, for_mlflow=client is not None)
    sha = sha256_of_json(files)
    tags = lineage_tags(card, outputs.run.run_id, evaluated)
    tags |= {SHA_TAG: sha, "callforge.dtype": config.save_dtype}
    registration: dict[str, Any] = {"model_name": config.model_name, "version": None, "alias": None}
    if root:
        root = f"{root}/{outputs.run.run_id}"
        uri = f"{root}/models/{sha[:16]}"
        tags |= {tag: publish_evaluation(folder, root) for tag, folder in evidence.items()}
        upload_folder(merged, uri, skip=(MANIFEST,))
        upload_file(merged / MANIFEST, f"{uri}/{MANIFEST}")
    else:
        uri = str(outputs.folder / "model")
        shutil.rmtree(uri, ignore_errors=True)
        merged.rename(uri)
    if client:
        with _registry_faults(uri):
            tags |= kfp_tags(client, outputs.tracker.run_id)
            words = description(tags)
            version = register(client, config, uri, registered_tags(tags), words, outputs.tracker.run_id)
        registration |= {
            "version": version,
            "alias": config.alias,
            "page": page(f"models/{config.model_name}/versions/{version}"),
            "run_page": outputs.tracker.url,
        }
        say(f"{config.model_name} version {version} is {config.alias}: {uri}")
    else:
        warn(f"MLFLOW_TRACKING_URI is not set, nothing was registered; weights: {uri}")
    registration |= {"source": uri, "manifest_sha256": sha, "files": files, "tags": tags}
    write_json(outputs.folder / "registration.json", registration)
    write_page(outputs.folder / "report.html", registration)
    shutil.rmtree(merged, ignore_errors=True)
    size = sum(entry["size"] for entry in files.values())
    metrics = {"bytes": float(size), "files": float(len(files))}
    return metrics | ({"version": float(registration["version"])} if client else {})


def register(
    client: Any,
    config: ModelRegistrationSettings,
    source: str,
    tags: Mapping[str, str],
    words: str,
    mlflow_run: str,
) -> int:
    """Make a version of `config.model_name`, or find the one this run made of the same weights; set the alias."""
    _ensure_model(client, config.model_name)
    query = f"name = '{config.model_name}' AND tags.`{RUN_TAG}` = '{tags[RUN_TAG]}'"
    same = [item for item in client.search_model_versions(query) if item.tags.get(SHA_TAG) == tags[SHA_TAG]]
    found = min(same, key=lambda item: int(item.version), default=None)
    if found is None:
        found = client.create_model_version(
            config.model_name, source, mlflow_run or None, dict(tags), description=words, await_creation_for=0
        )
    else:  # a killed run that goes on; the evaluation may have been repeated since
        for name, value in tags.items():
            if found.tags.get(name) != value:
                client.set_model_version_tag(config.model_name, found.version, name, value)
    client.set_registered_model_alias(config.model_name, config.alias, found.version)
    return int(found.version)


def _merge(source: ResolvedModel, folder: Path, dtype: Dtype, *, for_mlflow: bool) -> dict[str, dict[str, Any]]:
    """The merged model in `folder`, made unless a killed attempt left it there as its manifest has it; its files."""
    with suppress(FileNotFoundError, InputError):
        manifest = read_json(folder / MANIFEST)
        if manifest.get("files") != (files := _describe(folder)):
            warn(f"{folder.name}: not the merged model that an earlier attempt left; merged again")
        elif MLMODEL in files or not for_mlflow:
            return files
    shutil.rmtree(folder, ignore_errors=True)
    with track(1, f"merge in float32, save as {dtype}", "models") as bar:
        merge_adapter(source, folder, dtype)
        bar.advance()
    if for_mlflow:
        write_mlflow_files(folder, dtype)
    files = _describe(folder)
    write_json(folder / MANIFEST, {"sha256": sha256_of_json(files), "files": files})
    return files


@contextmanager
def _registry_faults(source: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise WorkError(
            f"the registry at {server_name()} failed ({first_line(error)}); the weights are safe "
            f"in {source}: run again with the same run id to register them"
        ) from error


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Function-calling models made by callforge")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _describe(folder: Path) -> dict[str, dict[str, Any]]:
    paths = files_of(folder, skip=(MANIFEST,))
    with track(paths, "hash merged model", "files") as bar:
        table = {}
        for path in paths:
            table[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_of_file(path)}
            bar.advance()
    return table
