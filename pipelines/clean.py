"""`callforge clean`: what the runs of this directory hold, and its removal.

A run's folder; what it put into the embedded S3; its run in the embedded MLflow, with files; and the versions of models
that it registered. Never: a run that somebody works on, and a version that an alias points to or a rollback may return
to, with its weights, its evaluations and its MLflow run. An S3 or MLflow of your own is not touched. What a removal is
found by goes after what it leads to, and the folder last, so an interrupted one is finished by the next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.model_registration.change import sole_change
from components.model_registration.evidence import BASE_EVALUATION_TAG, EVALUATION_TAG
from components.model_registration.promotion import champions
from components.model_registration.registry import aliases_of, registry_faults
from components.sections import read_section
from components.services.mlflow_server import RUN_TAG, mlflow_client
from components.services.storage import delete_objects, objects_below
from components.settings import RunSettings
from components.stages.catalogue import STAGES
from components.stages.folder import CHECKPOINTS, MANIFEST
from components.stages.local_run import LOCK, STEPS, sole_run
from components.stages.publishing import POINTER
from pipelines import seaweedfs
from pipelines.local import RUNS, SERVICES, shown
from pipelines.supervisor import known_ports

MLFLOW_FILES = f"s3://{seaweedfs.BUCKET}/mlflow"


@dataclass(frozen=True)
class Held:
    """What one run holds, and may be removed; and what of it stays."""

    run_id: str
    checkpoints: bool
    embedded: bool
    at_work: bool = False
    files: dict[Path, int] = field(default_factory=dict)
    """Bytes of each file and folder to remove; the run's folder by itself, or folders of checkpoints."""
    objects: dict[str, int] = field(default_factory=dict)
    """Bytes of each object of S3 to remove, by its address."""
    versions: tuple[tuple[str, str], ...] = ()
    """Model and version of what was registered and is not kept."""
    mlflow_runs: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Versions with an alias, and former champions, in words."""

    @property
    def bytes(self) -> int:
        """What its removal frees."""
        return sum(self.files.values()) + sum(self.objects.values())

    def describe(self) -> Iterator[str]:
        """Lines for people."""
        if self.at_work:
            yield "at work: left alone"
            return
        parts = [f"{_size(size)} in {shown(path)}" for path, size in self.files.items()]
        parts += [f"{_size(sum(self.objects.values()))} in S3"] if self.objects else []
        parts += [f"version {version} of {model}" for model, version in self.versions]
        parts += ["its page in MLflow"] if self.mlflow_runs else []
        yield ", ".join(parts) or "nothing to remove"
        for version in self.kept:
            yield f"keeps {version}, with weights, evaluations and its page in MLflow"


def look(run_ids: Collection[str], checkpoints: bool, embedded: bool) -> list[Held]:
    """What the runs hold, all runs where none is named.

    Args:
        checkpoints: only checkpoints of finished stages are to be removed.
        embedded: the environment leads to the embedded S3 and MLflow.

    Raises:
        InputError: there is no such run.
        WorkError: S3 or MLflow failed.
    """
    stored = objects_below(seaweedfs.ARTIFACT_ROOT) if embedded else {}
    found = {path.name for path in RUNS.glob("*") if path.is_dir()} | {name.split("/")[0] for name in stored}
    known = sorted(filter(_is_run_id, found))
    if missing := sorted(set(run_ids) - set(known)):
        raise InputError(f"run {', '.join(missing)}: there is no such run here; known are {', '.join(known) or 'none'}")
    return [
        Held(run_id, checkpoints, embedded, at_work=True)
        if _is_at_work(RUNS / run_id)
        else _held(run_id, stored, checkpoints, embedded)
        for run_id in (dict.fromkeys(run_ids) or known)
    ]


def remove(held: Held) -> None:
    """Remove what `look` found.

    Raises:
        InputError: somebody works on the run by now, or did so meanwhile.
        WorkError: S3 or MLflow failed.
    """
    folder = RUNS / held.run_id
    if not folder.is_dir():
        _refuse_changed(held)
        _remove_stored(held)
        return
    with sole_run(folder):
        _refuse_changed(held)
        _remove_stored(held)
        for path in held.files:
            for inner in sorted(path.iterdir()):
                if inner.name not in (LOCK, STEPS):
                    shutil.rmtree(inner) if inner.is_dir() and not inner.is_symlink() else inner.unlink()
            if path == folder:  # the locks last: until then nobody else begins here
                shutil.rmtree(path)


def _refuse_changed(held: Held) -> None:
    """A person may take hours to agree, and what came since was not shown."""
    place = f"{seaweedfs.ARTIFACT_ROOT}/{held.run_id}"
    below = objects_below(place) if held.embedded else {}
    stored = {f"{held.run_id}/{name}": size for name, size in below.items()}
    if _held(held.run_id, stored, held.checkpoints, held.embedded) != held:
        raise InputError(f"run {held.run_id}: it changed since it was looked at; nothing of it was removed, look again")


def give_back_space() -> None:
    """Free the space of the objects that were removed from the embedded S3."""
    folder = Path(os.path.realpath(SERVICES))
    seaweedfs.give_back_space(folder, known_ports(folder))


def _is_run_id(name: str) -> bool:
    """Whether a run may have the name: anything else beside the runs is not ours to remove."""
    try:
        read_section(RunSettings, {"run_id": name}, "run")
    except InputError:
        return False
    return True


def _is_at_work(folder: Path) -> bool:
    if folder.is_dir():
        try:
            with sole_run(folder):
                pass
        except InputError:
            return True
    return False


def _held(run_id: str, stored: dict[str, int], checkpoints: bool, embedded: bool) -> Held:
    folder = RUNS / run_id
    objects = {
        f"{seaweedfs.ARTIFACT_ROOT}/{name}": size for name, size in stored.items() if name.startswith(f"{run_id}/")
    }
    found = partial(Held, run_id, checkpoints, embedded)
    if checkpoints:
        finished = _finished_stages(run_id, stored)
        folders = (folder / stage / CHECKPOINTS for stage in finished)
        places = tuple(f"{seaweedfs.ARTIFACT_ROOT}/{run_id}/{stage}/{CHECKPOINTS}/" for stage in finished)
        return found(
            files={path: size for path in folders if path.is_dir() and (size := _bytes_of(path))},
            objects={uri: size for uri, size in objects.items() if uri.startswith(places)},
        )
    files = {folder: _bytes_of(folder)} if folder.is_dir() else {}
    if not embedded:
        return found(files=files)
    client = mlflow_client()
    with registry_faults(f"run {run_id}"):
        free, kept, kept_places = _versions(client, run_id)
        runs = () if kept else _mlflow_runs(client, run_id)
    objects = {uri: size for uri, size in objects.items() if not uri.startswith(kept_places)}
    for experiment, run in runs:
        place = f"{MLFLOW_FILES}/{experiment}/{run}"
        objects |= {f"{place}/{name}": size for name, size in objects_below(place).items()}
    return found(files=files, objects=objects, versions=free, mlflow_runs=tuple(run for _, run in runs), kept=kept)


def _finished_stages(run_id: str, stored: Collection[str]) -> list[str]:
    """Those whose checkpoints only an extension would need; an unfinished one has all of its work in them."""
    return [
        stage.name
        for stage in STAGES
        if (
            (folder / MANIFEST).is_file()
            if (folder := RUNS / run_id / stage.name).is_dir()
            else f"{run_id}/{stage.name}/{POINTER}" in stored
        )
    ]


def _versions(client: Any, run_id: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]:
    """Of a run's versions: those that may go, those that are kept in words, and where in S3 the latter are."""
    free, kept, places = [], [], []
    for version in client.search_model_versions(f"tags.`{RUN_TAG}` = '{run_id}'"):
        why = _why_kept(client, version.name, str(version.version))
        if not why:
            free.append((version.name, str(version.version)))
            continue
        kept.append(f"version {version.version} of {version.name} ({why})")
        places += [
            client.get_model_version_download_uri(version.name, version.version),  # the source of a copy is models:/...
            *(version.tags[tag] for tag in (EVALUATION_TAG, BASE_EVALUATION_TAG) if tag in version.tags),
        ]
    return tuple(free), tuple(kept), tuple(f"{place}/" for place in places)


def _why_kept(client: Any, model: str, version: str) -> str:
    """Its aliases, or that a rollback may return to it; "" where nothing keeps it."""
    return ", ".join(aliases_of(client, model, version)) or (
        "former champion" if version in champions(client, model) else ""
    )


def _mlflow_runs(client: Any, run_id: str) -> tuple[tuple[str, str], ...]:
    """Ids of experiment and run."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`{RUN_TAG}` = '{run_id}'")
    return tuple((run.info.experiment_id, run.info.run_id) for run in found)


def _remove_stored(held: Held) -> None:
    if held.versions or held.mlflow_runs:
        client = mlflow_client()
        with registry_faults(f"run {held.run_id}"):
            for model, version in held.versions:
                with sole_change(client, model, f"removing version {version}"):
                    if why := _why_kept(client, model, version):
                        raise InputError(f"{model} version {version} is kept by now ({why}); look again")
                    client.delete_model_version(model, version)
            _delete(uri for uri in held.objects if _is_of_mlflow(uri))
            for run in held.mlflow_runs:
                client.delete_run(run)
    _delete(uri for uri in held.objects if not _is_of_mlflow(uri))


def _is_of_mlflow(uri: str) -> bool:
    return uri.startswith(f"{MLFLOW_FILES}/")


def _delete(uris: Iterable[str]) -> None:
    bucket = f"s3://{seaweedfs.BUCKET}"
    delete_objects(bucket, [uri.removeprefix(f"{bucket}/") for uri in uris])


def _bytes_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"
