"""`callforge clean`: what the runs of this directory hold, and its removal.

A run's folder; what it put into the embedded S3; its run in the embedded MLflow, with files; and the versions of models
that it registered. Never: a run that somebody works on, and a version that an alias points to, with its weights, its
evaluations and its MLflow run. An S3 or MLflow of your own is not touched. What is removed last is the folder, so an
interrupted removal is finished by the next one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.model_registration.evidence import BASE_EVALUATION_TAG, EVALUATION_TAG
from components.model_registration.registry import aliases_of
from components.services.storage import delete_objects, objects_below
from components.stages.folder import CHECKPOINTS
from components.stages.local_run import LOCK, STEPS, sole_run
from pipelines import seaweedfs
from pipelines.local import RUNS, SERVICES, shown
from pipelines.supervisor import known_ports

MLFLOW_FILES = f"s3://{seaweedfs.BUCKET}/mlflow"


@dataclass(frozen=True)
class Held:
    """What one run holds, and may be removed; and what of it stays."""

    run_id: str
    at_work: bool = False
    files: dict[Path, int] = field(default_factory=dict)
    """Bytes of each file and folder to remove; the run's folder by itself, or folders of checkpoints."""
    objects: dict[str, int] = field(default_factory=dict)
    """Bytes of each object of S3 to remove, by its address."""
    versions: tuple[tuple[str, str], ...] = ()
    """Model and version of what was registered and has no alias."""
    mlflow_runs: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Versions with an alias, in words."""

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
        checkpoints: only checkpoints of runs are to be removed.
        embedded: the environment leads to the embedded S3 and MLflow.

    Raises:
        InputError: there is no such run.
        WorkError: S3 or MLflow failed.
    """
    stored = objects_below(seaweedfs.ARTIFACT_ROOT) if embedded else {}
    known = sorted({path.name for path in RUNS.glob("*") if path.is_dir()} | {name.split("/")[0] for name in stored})
    if missing := sorted(set(run_ids) - set(known)):
        raise InputError(f"run {', '.join(missing)}: there is no such run here; known are {', '.join(known) or 'none'}")
    client = _client() if embedded else None
    return [_held(run_id, stored, checkpoints, client) for run_id in (run_ids or known)]


def remove(held: Held) -> None:
    """Remove what `look` found.

    Raises:
        InputError: somebody works on the run by now.
        WorkError: S3 or MLflow failed.
    """
    folder = RUNS / held.run_id
    if not folder.is_dir():
        _remove_stored(held)
        return
    with sole_run(folder):
        _remove_stored(held)
        for path in held.files:
            for inner in sorted(path.iterdir()):
                if inner.name not in (LOCK, STEPS):
                    shutil.rmtree(inner) if inner.is_dir() and not inner.is_symlink() else inner.unlink()
            if path == folder:  # the locks last: until then nobody else begins here
                shutil.rmtree(path)


def give_back_space() -> None:
    """Free the space of the objects that were removed from the embedded S3."""
    folder = Path(os.path.realpath(SERVICES))
    seaweedfs.give_back_space(folder, known_ports(folder))


def _held(run_id: str, stored: dict[str, int], checkpoints: bool, client: Any) -> Held:
    folder = RUNS / run_id
    if folder.is_dir():
        try:
            with sole_run(folder):
                pass
        except InputError:
            return Held(run_id, at_work=True)
    objects = {
        f"{seaweedfs.ARTIFACT_ROOT}/{name}": size for name, size in stored.items() if name.startswith(f"{run_id}/")
    }
    if checkpoints:
        folders = sorted(path for path in folder.glob(f"*/{CHECKPOINTS}") if path.is_dir())
        files = {path: size for path in folders if (size := _bytes_of(path))}
        return Held(
            run_id, files=files, objects={uri: size for uri, size in objects.items() if f"/{CHECKPOINTS}/" in uri}
        )
    files = {folder: _bytes_of(folder)} if folder.is_dir() else {}
    if client is None:
        return Held(run_id, files=files)
    free, kept, places = _versions(client, run_id)
    objects = {uri: size for uri, size in objects.items() if not any(uri.startswith(f"{place}/") for place in places)}
    runs = () if kept else _mlflow_runs(client, run_id)
    for experiment, run in runs:
        place = f"{MLFLOW_FILES}/{experiment}/{run}"
        objects |= {f"{place}/{name}": size for name, size in objects_below(place).items()}
    return Held(
        run_id, files=files, objects=objects, versions=free, mlflow_runs=tuple(run for _, run in runs), kept=kept
    )


def _versions(client: Any, run_id: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]:
    """Of a run's versions: those without an alias, those with one in words, and where in S3 the latter are."""
    free, kept, places = [], [], []
    for version in client.search_model_versions(f"tags.`callforge.run_id` = '{run_id}'"):
        aliases = aliases_of(client, version.name, version.version)
        if not aliases:
            free.append((version.name, str(version.version)))
            continue
        kept.append(f"version {version.version} of {version.name} ({', '.join(aliases)})")
        places += [
            version.source,
            *(version.tags[tag] for tag in (EVALUATION_TAG, BASE_EVALUATION_TAG) if tag in version.tags),
        ]
    return tuple(free), tuple(kept), tuple(places)


def _mlflow_runs(client: Any, run_id: str) -> tuple[tuple[str, str], ...]:
    """Ids of experiment and run."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`callforge.run_id` = '{run_id}'")
    return tuple((run.info.experiment_id, run.info.run_id) for run in found)


def _remove_stored(held: Held) -> None:
    from components.model_registration.change import sole_change

    if held.versions or held.mlflow_runs:
        client = _client()
        for model, version in held.versions:
            with sole_change(client, model, f"removing version {version}"):
                if aliases_of(client, model, version):
                    raise InputError(f"{model} version {version} was given an alias meanwhile; look again")
                client.delete_model_version(model, version)
        for run in held.mlflow_runs:
            client.delete_run(run)
    if held.objects:
        bucket = f"s3://{seaweedfs.BUCKET}"
        delete_objects(bucket, [uri.removeprefix(f"{bucket}/") for uri in held.objects])


def _client() -> Any:
    from components.services.mlflow_server import mlflow_client

    return mlflow_client()


def _bytes_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"
