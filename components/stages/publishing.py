"""A finished stage in S3: its files under the hash of their manifest, and a pointer that is written last.

    <artifact root>/<run id>/<stage>/<hash>/...       files, config.json, metrics.jsonl, then manifest.json
    <artifact root>/<run id>/<stage>/current.json     names the hash

What is under a hash is never changed, so a reader who follows the pointer sees one attempt whole, and no object of an
earlier one. Earlier attempts stay for whoever still reads them; a lifecycle rule may remove them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from components.errors import CallforgeError, InputError, WorkError
from components.files import LARGEST_JSON, sha256_of_file
from components.services.events import say, warn
from components.services.outbox import METRICS
from components.services.storage import download_folder, read_object, upload_file, upload_folder, write_object
from components.settings import RunSettings
from components.stages.folder import CHECKPOINTS, CONFIG, MANIFEST, Manifest, verified_manifest

POINTER = "current.json"
HASH_DIGITS = 16
LARGEST_POINTER = 10_000  # bytes


def stage_uri(run: RunSettings, stage: str) -> str:
    """Where in S3 the run keeps what is the stage's."""
    return f"{run.artifact_root}/{run.run_id}/{stage}"


def published_uri(run: RunSettings, stage: str, manifest: Path) -> str:
    """Where in S3 the stage with this manifest is, once it is published."""
    return f"{stage_uri(run, stage)}/{sha256_of_file(manifest)[:HASH_DIGITS]}"


def publish(folder: Path, manifest: Path, run: RunSettings, stage: str) -> str:
    """Copy a finished stage to S3; returns its address there.

    Args:
        manifest: the file that becomes manifest.json: it is copied after all that it names.

    Raises:
        InputError, WorkError: S3 refused, or failed.
    """
    uri = published_uri(run, stage, manifest)
    upload_folder(folder, uri, skip=(CHECKPOINTS, MANIFEST))
    upload_file(manifest, f"{uri}/{MANIFEST}")
    pointer = {"folder": uri.rpartition("/")[2], "manifest_sha256": sha256_of_file(manifest)}
    write_object(f"{stage_uri(run, stage)}/{POINTER}", json.dumps(pointer).encode())
    return uri


def is_published(manifest: Path, run: RunSettings, stage: str) -> bool:
    """Whether the pointer of the stage in S3 names this manifest; one that is not ours does not."""
    try:
        return resolve_published(stage_uri(run, stage)) == published_uri(run, stage, manifest)
    except InputError:
        return False


def resolve_published(uri: str) -> str:
    """The folder that the pointer below `uri` names; `uri` itself where there is no pointer.

    Raises:
        InputError: the pointer is not one of ours.
    """
    folder = uri.rstrip("/")
    name = _pointer(folder)
    return f"{folder}/{name}" if name else folder


def fetch_finished(folder: Path, run: RunSettings, stage: str, work: str) -> Manifest | None:
    """Put what the stage published for this run into `folder`, beside hidden files of others, if it is the same work.

    Args:
        work: digest of the stage's identity.

    Returns:
        Its manifest; None, and `folder` as it was, where nothing or other work was published, or it is damaged.
    """
    home = stage_uri(run, stage)
    folder = Path(os.path.realpath(folder))  # a link stays one, and what arrives is on the disk that it leads to
    arriving = folder.with_name(f".{folder.name}.arriving")
    shutil.rmtree(arriving, ignore_errors=True)
    try:
        uri = resolve_published(home)
        if uri == home or _work(uri) != work:
            return None
        download_folder(uri, arriving)
        manifest = verified_manifest(arriving)
        if manifest is None or manifest.work != work or published_uri(run, stage, arriving / MANIFEST) != uri:
            raise WorkError(f"{uri}: it is not what its manifest and its name say")
        if not {CONFIG, METRICS} <= {path.name for path in arriving.iterdir()}:
            raise WorkError(f"{uri}: {CONFIG} or {METRICS} is missing")
    except CallforgeError as error:
        warn(f"what {stage} published before cannot be taken, and is made again ({error})")
        shutil.rmtree(arriving, ignore_errors=True)
        return None
    _move(arriving, folder)
    say(f"taken from {uri}, where it was published")
    return manifest


def _move(arriving: Path, folder: Path) -> None:
    """Killed in between, it leaves unfinished work of the stage: its configuration comes first, the manifest last."""
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted({path.name for path in arriving.iterdir()} - {CONFIG, METRICS, MANIFEST})
    for name in (CONFIG, *others, METRICS, MANIFEST):
        (arriving / name).replace(folder / name)
    arriving.rmdir()


def _work(uri: str) -> str | None:
    """What work the published folder is, by its manifest; None where that is not one."""
    try:
        work = json.loads(read_object(f"{uri}/{MANIFEST}", LARGEST_JSON) or b"{}").get("work")
    except (ValueError, AttributeError, RecursionError):
        return None
    return work if isinstance(work, str) else None


def _pointer(folder: str) -> str | None:
    """The name of the folder that the pointer names; None where nothing was published."""
    text = read_object(f"{folder}/{POINTER}", LARGEST_POINTER)
    if text is None:
        return None
    try:
        value = json.loads(text)
        name, sha256 = str(value["folder"]), str(value["manifest_sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        name, sha256 = "", ""
    if not re.fullmatch(r"[0-9a-f]{16}", name) or not sha256.startswith(name):
        raise InputError(f"{folder}/{POINTER}: not the pointer of a stage; publish the stage again, or name its folder")
    return name
