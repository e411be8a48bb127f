"""The folder of a stage: the files in it, what they hold, and who may write there.

`config.json` says what work the folder holds, `metrics.jsonl` has one object a line, `manifest.json` names size and
sha256 of every output and is written last. Whatever else is in a folder came from somebody else: it is refused in one
sentence, and never overwritten.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import CallforgeError, InputError
from components.files import read_json, sha256_of_file, sha256_of_json, write_json
from components.services.outbox import METRICS
from components.services.storage import files_of

CONFIG, MANIFEST, ERROR = "config.json", "manifest.json", "error.json"
CHECKPOINTS = "checkpoints"  # state to resume from, not an output: neither in the manifest nor published
NOT_OUTPUTS = (CONFIG, METRICS, MANIFEST, ERROR)
LOCK_SECONDS = 1.0  # a process that is just being killed still holds its lock


class FileEntry(BaseModel):
    """One output, as the manifest names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int
    sha256: str


class Manifest(BaseModel):
    """manifest.json: what a finished stage left, and what it was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    work: str
    """Digest of the stage's identity: what decided this result."""
    content: str
    """Digest of what later stages depend on. Equal results have equal ones, whatever their pages and timings say."""
    files: dict[str, FileEntry]
    metrics: dict[str, float]


class Config(BaseModel):
    """config.json: what a stage was asked for, and the part of it that decides the result (`identity`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    settings: dict[str, Any]
    identity: dict[str, Any]


class Failure(BaseModel):
    """error.json: why the last attempt ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    message: str
    exit_code: int


_Contents = TypeVar("_Contents", Manifest, Config, Failure)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage folder; None where there is none.

    Raises:
        InputError: a file of that name is there and is not a manifest; says why.
    """
    return _read(folder / MANIFEST, Manifest)


def read_config(folder: Path) -> Config | None:
    """What a stage folder says it holds; None where there is no config.json.

    Raises:
        InputError: a file of that name is there and no stage of this version wrote it; says why.
    """
    return _read(folder / CONFIG, Config)


def read_failure(folder: Path) -> Failure | None:
    """Why the last attempt in a stage folder ended; None where it ended well, or was killed.

    Raises:
        InputError: a file of that name is there and no stage wrote it; says why.
    """
    return _read(folder / ERROR, Failure)


def write_config(folder: Path, config: Config) -> None:
    """Say what work the folder holds from now on."""
    write_json(folder / CONFIG, config.model_dump())


def write_failure(folder: Path, stage: str, error: CallforgeError) -> None:
    """Leave the reason for whoever started the stage; nothing, where the disk is full."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        failure = Failure(stage=stage, message=str(error), exit_code=error.exit_code)
        write_json(folder / ERROR, failure.model_dump())


def _read(path: Path, kind: type[_Contents]) -> _Contents | None:
    try:
        return kind.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        why = f"{'.'.join(map(str, item['loc']))}: {item['msg'][:1].lower()}{item['msg'][1:]}"
        raise InputError(f"{path}: not the {kind.__name__.lower()} of a stage of this version: {why}") from None


def describe(folder: Path, stage: str, work: str, content: tuple[str, ...], metrics: Mapping[str, float]) -> Manifest:
    """The manifest of what is in `folder` now.

    Raises:
        FileNotFoundError: a pattern of `content` has no file: the stage did not leave what it is there for.
    """
    table = file_table(folder)
    for pattern in content:
        if not any(_matches(name, pattern) for name in table):
            raise FileNotFoundError(f"{folder}: {stage} ended without leaving {pattern}")
    kept = {name: entry.sha256 for name, entry in table.items() if any(_matches(name, item) for item in content)}
    return Manifest(stage=stage, work=work, content=sha256_of_json(kept), files=table, metrics=dict(metrics))


def _matches(name: str, pattern: str) -> bool:
    """`fnmatch`, whose `*` stops at a slash; `**/` stands for any folders, or none."""
    if "**" in pattern:
        return fnmatch(name, pattern.replace("**/", "*"))
    return fnmatch(name, pattern) and name.count("/") == pattern.count("/")


def file_table(folder: Path) -> dict[str, FileEntry]:
    """Size and sha256 of every output of a stage folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_of_file(path))
        for path in _outputs(folder)
    }


def _outputs(folder: Path) -> list[Path]:
    return files_of(folder, skip=(CHECKPOINTS, *NOT_OUTPUTS))


def verified_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage folder when every file it names is there unchanged, else None."""
    try:
        manifest = read_manifest(folder)
    except InputError:
        return None  # cut or overwritten
    return None if manifest is None or damage(folder, manifest) else manifest


def damage(folder: Path, manifest: Manifest) -> str:
    """What is wrong with the files that the manifest names, in words; empty when all are there unchanged."""
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            if path.stat().st_size != entry.size:
                return f"{name} has {path.stat().st_size:,} bytes instead of {entry.size:,}"
            if sha256_of_file(path) != entry.sha256:
                return f"{name} has other bytes"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    extra = {path.relative_to(folder).as_posix() for path in _outputs(folder)} - manifest.files.keys()
    return f"{min(extra)} was added" if extra else ""


def input_digest(name: str, path: Path) -> str:
    """What identifies an input: the content of a finished stage, verified file by file; of anything else, its bytes.

    Raises:
        InputError: it is not there, or it is the folder of a stage that has not finished or was changed since.
    """
    if not path.exists():
        raise InputError(f"input {name}: {path}: there is no such file or folder")
    if path.is_file():
        return sha256_of_file(path)
    of_stage = (path / CONFIG).is_file() and (path / METRICS).is_file()
    try:
        manifest = read_manifest(path)
    except InputError:
        if of_stage:
            raise
        manifest = None  # another program's, or that of a registered model
    if manifest is None:
        if of_stage:
            raise InputError(f"input {name}: {path}: the stage that writes there has not finished; run it to its end")
        return sha256_of_json({file.relative_to(path).as_posix(): sha256_of_file(file) for file in files_of(path)})
    if why := damage(path, manifest):
        raise InputError(
            f"input {name}: {path}: it is not what {manifest.stage} wrote: {why}; run {manifest.stage} again, or "
            "restore the folder"
        )
    return manifest.content


def _is_at(path: Path, handle: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold a stage folder against every other process, on this machine, that would write there.

    The kernel gives the lock back when the process dies. Its file is beside the folder, which may be replaced.

    Raises:
        InputError: another process is at work there.
    """
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, handle):  # else its owner removed it just now
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise InputError(
                    f"{folder}: another process is at work there; wait for it, or end it, or name another folder"
                ) from None
        os.close(handle)
        time.sleep(0.02)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
