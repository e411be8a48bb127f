"""Files on this machine and objects in S3 behind the same few functions, with errors a person can act on.

Every object is sent with the sha256 of its bytes, which the store checks, and keeps it as metadata, which is read back.
Buckets are not created here. The client and the meaning of its errors: components/services/s3.py.
"""

from __future__ import annotations

import io
import re
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from components.errors import CallforgeError, InputError, WorkError
from components.files import expand_home, is_folder, sha256_of_file, sha256_of_json
from components.services.progress import track
from components.services.s3 import StoreAwayError, endpoint, faults, s3_client, status_of

SCHEME = "s3://"
SHA256 = "sha256"  # name of the metadata entry
PART_BYTES = 64 * 2**20  # a part of a multipart upload: 10,000 parts make 640 GB
READ_ATTEMPTS = 5
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Stored(NamedTuple):
    """What an object holds; `sha256` is "" where another program wrote it."""

    size: int
    sha256: str


def is_remote(uri: str) -> bool:
    """Whether `uri` names an object in S3; everything else is a local path."""
    return uri.startswith(SCHEME)


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key; the key may be empty.

    Raises:
        InputError: `uri` is not of that form.
    """
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not is_remote(uri) or not _BUCKET.fullmatch(bucket):
        raise InputError(
            f"{uri}: not an S3 address; give s3://bucket/key, the bucket with 3 to 63 of a-z, 0-9, '.' and '-'"
        )
    return bucket, key.strip("/") if key.endswith("/") else key


def _object(uri: str) -> tuple[str, str]:
    """Bucket and key of an object.

    Raises:
        InputError: `uri` names a bucket or a folder.
    """
    bucket, key = split_uri(uri)
    if not key or uri.endswith("/"):
        raise InputError(f"{uri}: this names a whole {'folder' if key else 'bucket'}; give one object, s3://bucket/key")
    return bucket, key


@contextmanager
def open_uri(uri: str) -> Iterator[BinaryIO]:
    """Open a local file or an S3 object for reading, as a stream: nothing is read ahead of a small buffer.

    A connection to S3 that breaks is taken up again at the same byte, as long as the object is the same.

    Raises:
        InputError: there is no such file or object, or it may not be read.
        WorkError: S3 failed for good in the middle.
    """
    if not is_remote(uri):
        path = expand_home(uri)
        try:
            if not (path.is_file() or path.is_dir()) and path.exists():  # before it is opened: that could wait for ever
                raise InputError(f"{uri}: a pipe or a device, which can be read only once; give the path of a file")
            file = path.open("rb")
        except OSError as error:
            raise InputError(f"{uri}: cannot be read ({error.strerror}); give the path of a readable file") from None
        with file:
            yield file
        return
    bucket, key = _object(uri)
    client = s3_client()
    with faults(uri):
        head = _head(client, bucket, key)
    with io.BufferedReader(_ObjectReader(client, uri, head["ContentLength"], head["ETag"]), 2**20) as reader:
        yield reader


class _ObjectReader(io.RawIOBase):
    """The bytes of one version of one object, in order."""

    def __init__(self, client: Any, uri: str, size: int, etag: str) -> None:
        self.client, self.uri, self.size, self.etag = client, uri, size, etag
        self.position = 0
        self.body: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        for attempt in range(1, READ_ATTEMPTS + 1):
            if self.position >= self.size:
                return 0
            try:
                data = self._read(len(buffer))
            except StoreAwayError:
                self.body = None
                if attempt == READ_ATTEMPTS:
                    raise
                time.sleep(0.5 * 2**attempt)
                continue
            buffer[: len(data)] = data
            self.position += len(data)
            return len(data)
        raise AssertionError("not reached")

    def _read(self, size: int) -> bytes:
        with faults(self.uri, later=True):
            if self.body is None:
                bucket, key = split_uri(self.uri)
                self.body = self.client.get_object(
                    Bucket=bucket, Key=key, Range=f"bytes={self.position}-", IfMatch=self.etag
                )["Body"]
            data: bytes = self.body.read(size)
            if not data:
                raise StoreAwayError(
                    f"{self.uri}: {endpoint()} ended the stream at byte {self.position} of {self.size}"
                )
            return data

    def close(self) -> None:
        if self.body is not None:
            self.body.close()
        super().close()


def names_below(uri: str) -> set[str]:
    """Names of the files right below a folder or prefix; none where there is no such thing."""
    if not is_remote(uri):
        folder = expand_home(uri)
        return {path.name for path in folder.iterdir() if path.is_file()} if is_folder(folder) else set()
    bucket, key = split_uri(f"{uri.rstrip('/')}/")
    client = s3_client()
    prefix = f"{key}/" if key else ""
    with faults(uri):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        return {item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])}


def content_tag(uri: str) -> str:
    """What changes when the bytes do: sha256 of a local file, or of a folder's names and contents; an object's ETag.

    Raises:
        InputError: there is no such file or object, or it may not be read.
    """
    if not is_remote(uri):
        path = expand_home(uri)
        if is_folder(path):
            return sha256_of_json({str(file.relative_to(path)): sha256_of_file(file) for file in files_of(path)})
        with open_uri(uri):  # says what is wrong with it
            return sha256_of_file(path)
    bucket, key = _object(uri)
    client = s3_client()
    with faults(uri):
        return str(_head(client, bucket, key)["ETag"])


def read_object(uri: str, limit: int = -1) -> bytes | None:
    """The bytes of a small object or local file, at most `limit`; None where there is no such thing.

    Raises:
        CallforgeError: the store refuses, fails or does not answer.
    """
    if is_remote(uri):
        bucket, key = _object(uri)
        client = s3_client()
        with faults(uri):
            if _stored(client, bucket, key) is None:
                return None
    elif not expand_home(uri).is_file():
        return None
    with open_uri(uri) as stream:
        return stream.read(limit)


def write_object(uri: str, body: bytes) -> Stored:
    """Put a small object in place in one step: a reader sees the one before or this one. The last writer wins.

    Raises:
        WorkError: the store refuses, or holds something else than was sent.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        path.write_bytes(body)
        return upload_file(path, uri)


def upload_file(path: Path, uri: str) -> Stored:
    """Copy a file to S3, unless the same bytes are there already; returns size and sha256 as the store has them.

    Raises:
        WorkError: the store refuses, fails, or holds something else than was sent.
    """
    return _upload([(path, uri)], f"upload {path.name}")[0]


def upload_folder(folder: Path, uri: str, skip: Collection[str] = ()) -> None:
    """Copy what is in `folder` below `uri`, except the entries of its top level that are named in `skip`.

    Hidden files stay behind. Objects that hold the same bytes already are not sent again, so an upload that was
    killed goes on. Nothing is deleted.
    """
    prefix = uri.rstrip("/")
    files = [(path, f"{prefix}/{path.relative_to(folder).as_posix()}") for path in files_of(folder, skip)]
    _upload(files, f"upload {folder.name}")


def files_of(folder: Path, skip: Collection[str] = ()) -> list[Path]:
    """The files below `folder`, sorted: no hidden ones, none under a top-level entry named in `skip`."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.relative_to(folder).parts[0] not in skip
    ]


def _upload(files: list[tuple[Path, str]], label: str, threshold: int = PART_BYTES, later: bool = True) -> list[Stored]:
    """Copy files to objects; those of `threshold` bytes or more in parts. `later`: see faults."""
    client = s3_client()
    sent = [Stored(path.stat().st_size, sha256_of_file(path)) for path, _ in files]
    with track(sum(file.size for file in sent), label, "bytes") as bar:
        for (path, uri), file in zip(files, sent, strict=True):
            bucket, key = _object(uri)
            with faults(uri, later):
                if _stored(client, bucket, key, unlisted=True) == file:
                    bar.advance(file.size)
                    continue
                _send(client, path, bucket, key, file.sha256, threshold, bar.advance)
                stored = _stored(client, bucket, key)
            if stored != file:
                raise WorkError(f"{uri}: {_difference(path, file, stored)}")
    return sent


def _send(client: Any, path: Path, bucket: str, key: str, sha256: str, threshold: int, callback: Any) -> None:
    """Upload a file, in parts where it has `threshold` bytes and the store knows parts."""
    from boto3.exceptions import S3UploadFailedError
    from boto3.s3.transfer import TransferConfig
    from botocore.exceptions import ClientError

    in_parts = TransferConfig(multipart_threshold=threshold, multipart_chunksize=PART_BYTES, max_concurrency=4)
    arguments = {"ExtraArgs": {"Metadata": {SHA256: sha256}}, "Callback": callback}
    try:
        client.upload_file(str(path), bucket, key, Config=in_parts, **arguments)
    except S3UploadFailedError as error:
        cause = error.__context__
        no_parts = isinstance(cause, ClientError) and cause.operation_name == "CreateMultipartUpload"
        if not (no_parts and status_of(cause) in (405, 501)):
            raise
        client.upload_file(str(path), bucket, key, Config=TransferConfig(multipart_threshold=2**63), **arguments)


def _difference(path: Path, sent: Stored, stored: Stored | None) -> str:
    if stored and stored.size == sent.size and not stored.sha256:
        return f"{endpoint()} did not keep the metadata entry {SHA256} of the object; callforge needs it"
    return (
        f"{endpoint()} holds {stored} after {sent} was sent; was {path} changed meanwhile, or does another process "
        "write there? Start the run again to send it once more"
    )


def _stored(client: Any, bucket: str, key: str, unlisted: bool = False) -> Stored | None:
    """What is there; None where nothing is.

    Args:
        unlisted: None also where the store refuses to say, as it does for a missing key without the right to list.
    """
    from botocore.exceptions import ClientError

    try:
        head = _head(client, bucket, key)
    except ClientError as error:
        if status_of(error) == 404 or (unlisted and status_of(error) == 403):
            return None
        raise
    metadata = {name.lower(): value for name, value in head["Metadata"].items()}  # some stores give them capitals
    return Stored(head["ContentLength"], metadata.get(SHA256, ""))


def _head(client: Any, bucket: str, key: str) -> Any:
    """An object's head. A refusal of HEAD has no body that gives the reason, so that of GET is raised instead."""
    from botocore.exceptions import ClientError

    try:
        return client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if status_of(error) not in (400, 401, 403):
            raise
    answer = client.get_object(Bucket=bucket, Key=key)
    answer["Body"].close()
    return answer


def objects_below(uri: str) -> dict[str, int]:
    """Size of every object below s3://bucket/prefix, by the rest of its key."""
    bucket, key = split_uri(f"{uri.rstrip('/')}/")
    prefix = f"{key}/" if key else ""
    client = s3_client()
    with faults(uri):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        items = [item for page in pages for item in page.get("Contents", []) if not item["Key"].endswith("/")]
    return {item["Key"].removeprefix(prefix): item["Size"] for item in items}


def download_folder(uri: str, folder: Path) -> None:
    """Copy everything below s3://bucket/prefix into `folder`; each file is whole or absent, its sha256 checked.

    Raises:
        InputError: there is nothing below `uri`, or a key would leave `folder`.
        WorkError: the connection broke, or the bytes are not those that were stored.
    """
    _download_folder(uri, folder, objects_below(uri), later=True)


def _download_folder(uri: str, folder: Path, objects: dict[str, int], later: bool) -> None:
    if not objects:
        raise InputError(f"{uri}: there is nothing below this prefix at {endpoint()}; check the bucket and the path")
    client = s3_client()
    with track(sum(objects.values()), f"download {PurePosixPath(uri).name}", "bytes") as bar:
        for key in objects:
            name = PurePosixPath(key)
            if ".." in name.parts or name.is_absolute():
                raise InputError(f"{uri}: the key {key!r} would be written outside {folder}; rename the object")
            _download(client, f"{uri.rstrip('/')}/{key}", folder / name, bar.advance, later)


def _download(client: Any, uri: str, target: Path, callback: Any, later: bool) -> None:
    bucket, key = split_uri(uri)
    with faults(uri, later):
        stored = _stored(client, bucket, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        client.download_file(bucket, key, str(part), Callback=callback)
    received = Stored(part.stat().st_size, sha256_of_file(part))
    if stored is None or stored.size != received.size or stored.sha256 not in ("", received.sha256):
        part.unlink()
        raise WorkError(f"{uri}: {received} arrived where {stored} is stored; start the run again")
    part.replace(target)


def check_bucket(uri: str) -> None:
    """Prove that below `uri` a run can do its work: by the same calls, it uploads a file of a few bytes whole and in
    parts, lists both, reads and downloads them, and deletes them.

    Raises:
        CallforgeError: naming what is refused, by whom and why.
    """
    probe = f"{uri.rstrip('/')}/.callforge-probe-{uuid.uuid4().hex}"
    names = ("whole", "parts")
    try:
        _probe(probe, names)
    except BaseException:
        with suppress(CallforgeError):
            delete_objects(probe, names)
        raise
    delete_objects(probe, names)


def _probe(uri: str, names: tuple[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe"
        path.write_bytes(b"callforge")
        for name, threshold in zip(names, (PART_BYTES, 1), strict=True):
            _upload([(path, f"{uri}/{name}")], "probe", threshold, later=False)
        found = objects_below(uri)
        if set(found) != set(names):
            raise InputError(
                f"{uri}: {endpoint()} lists {sorted(found)} where {sorted(names)} were written; callforge needs a "
                "store whose listing shows what is there"
            )
        _download_folder(uri, Path(folder) / "copy", found, later=False)
    with open_uri(f"{uri}/{names[0]}") as stream:
        if stream.read() != b"callforge":
            raise InputError(f"{uri}: {endpoint()} gave back other bytes than were written; is this an S3 store?")


def delete_objects(uri: str, names: Collection[str]) -> None:
    """Delete the objects `names` below s3://bucket/prefix; one that is not there is no fault.

    Raises:
        InputError, WorkError: S3 refused, or failed.
    """
    client = s3_client()
    for name in names:
        bucket, key = _object(f"{uri}/{name}")
        with faults(uri):
            client.delete_object(Bucket=bucket, Key=key)
