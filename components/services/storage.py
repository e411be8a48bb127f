"""Files on this machine and objects in S3 behind the same few functions, with errors a person can act on.

The endpoint and the credentials come from the environment alone: AWS_ENDPOINT_URL_S3 (or MLFLOW_S3_ENDPOINT_URL),
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION, or whatever else boto3 finds (a role, a profile). Every
object carries the sha256 of its bytes, as S3's own checksum and as metadata. Buckets are not created here.
"""

from __future__ import annotations

import io
import os
import re
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from components.errors import CallforgeError, InputError, WorkError
from components.files import expand_home, sha256_of_file, sha256_of_json
from components.services.progress import track

SCHEME = "s3://"
SHA256 = "sha256"  # name of the metadata entry
PART_BYTES = 64 * 2**20  # a part of a multipart upload: 10,000 parts make 640 GB
READ_ATTEMPTS = 5
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def is_remote(uri: str) -> bool:
    """Whether `uri` names an object in S3; everything else is a local path."""
    return uri.startswith(SCHEME)


def endpoint() -> str:
    """The S3 endpoint in use, for messages."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("MLFLOW_S3_ENDPOINT_URL")
    return named or os.environ.get("AWS_ENDPOINT_URL") or "AWS S3"


def s3_client() -> Any:
    """A boto3 client for the endpoint and credentials of the environment (signature version 4, path style)."""
    import boto3
    from botocore.config import Config

    address = endpoint()
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "auto" if address == "AWS S3" else "path"},
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=5,
        read_timeout=60,
        # Stores that are not AWS refuse checksums they did not ask for; uploads below name theirs.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1"
    with _faults(address):
        return boto3.Session().client(  # a session of its own: the shared one keeps the first credentials it met
            "s3", endpoint_url=None if address == "AWS S3" else address, region_name=region, config=config
        )


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key; the key may be empty.

    Raises:
        InputError: `uri` is not of that form.
    """
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not is_remote(uri) or not _BUCKET.fullmatch(bucket):
        raise InputError(
            f"{uri}: this is no S3 address; wanted is s3://bucket/key, the bucket with 3 to 63 of a-z, 0-9, '.' and '-'"
        )
    return bucket, key.strip("/") if key.endswith("/") else key


@contextmanager
def open_uri(uri: str) -> Iterator[BinaryIO]:
    """Open a local file or an S3 object for reading, as a stream: nothing is read ahead of a small buffer.

    A connection to S3 that breaks is taken up again at the same byte, as long as the object is the same.

    Raises:
        InputError: there is no such file or object, or it may not be read.
        WorkError: S3 failed for good in the middle.
    """
    if not is_remote(uri):
        try:
            file = expand_home(uri).open("rb")
        except OSError as error:
            raise InputError(f"{uri}: cannot be read ({error.strerror}); give the path of a readable file") from None
        with file:
            yield file
        return
    bucket, key = split_uri(uri)
    client = s3_client()
    with _faults(uri):
        head = client.head_object(Bucket=bucket, Key=key)
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
            except WorkError:
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
        with _faults(self.uri, later=True):
            if self.body is None:
                bucket, key = split_uri(self.uri)
                self.body = self.client.get_object(
                    Bucket=bucket, Key=key, Range=f"bytes={self.position}-", IfMatch=self.etag
                )["Body"]
            data: bytes = self.body.read(size)
            if not data:
                raise WorkError(f"{self.uri}: {endpoint()} ended the stream at byte {self.position} of {self.size}")
            return data

    def close(self) -> None:
        if self.body is not None:
            self.body.close()
        super().close()


def uri_exists(uri: str) -> bool:
    """Whether there is such a file or object, or a folder (prefix) with something in it."""
    if not is_remote(uri):
        return expand_home(uri).exists()
    bucket, key = split_uri(uri)
    client = s3_client()
    with _faults(uri):
        found = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
        if found and (not key or found[0]["Key"] == key):
            return True
        prefix = f"{key}/" if key else ""
        return bool(client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"))


def names_below(uri: str) -> set[str]:
    """Names of the files right below a folder or prefix; none where there is no such thing."""
    if not is_remote(uri):
        folder = expand_home(uri)
        return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    bucket, key = split_uri(f"{uri.rstrip('/')}/")
    client = s3_client()
    prefix = f"{key}/" if key else ""
    with _faults(uri):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        return {item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])}


def objects_below(uri: str) -> dict[str, int]:
    """Size of every object below s3://bucket/prefix, by the rest of its key."""
    bucket, key = split_uri(f"{uri.rstrip('/')}/")
    prefix = f"{key}/" if key else ""
    client = s3_client()
    with _faults(uri):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        items = [item for page in pages for item in page.get("Contents", []) if not item["Key"].endswith("/")]
    return {item["Key"].removeprefix(prefix): item["Size"] for item in items}


def content_tag(uri: str) -> str:
    """What changes when the bytes do: sha256 of a local file, or of a folder's names and contents; an object's ETag.

    Raises:
        InputError: there is no such file or object, or it may not be read.
    """
    if not is_remote(uri):
        path = expand_home(uri)
        if path.is_dir():
            return sha256_of_json({str(file.relative_to(path)): sha256_of_file(file) for file in files_of(path)})
        with open_uri(uri):  # says what is wrong with it
            return sha256_of_file(path)
    bucket, key = split_uri(uri)
    client = s3_client()
    with _faults(uri):
        return str(client.head_object(Bucket=bucket, Key=key)["ETag"])


def upload_file(path: Path, uri: str) -> None:
    """Copy a file to S3, unless the same bytes are there already, and read size and sha256 back.

    Raises:
        InputError: bucket or credentials are wrong.
        WorkError: the store failed or holds something else than was sent.
    """
    _upload([(path, uri)], f"upload {path.name}")


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


def _upload(files: list[tuple[Path, str]], label: str) -> None:
    from boto3.s3.transfer import TransferConfig

    client = s3_client()
    transfer = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
    size = sum(path.stat().st_size for path, _ in files)
    with track(size, label, "bytes") as bar:
        for path, uri in files:
            bucket, key = split_uri(uri)
            sent = (path.stat().st_size, sha256_of_file(path))
            with _faults(uri, later=True):
                if _size_and_sha256(client, bucket, key) == sent:
                    bar.advance(sent[0])
                    continue
                client.upload_file(
                    str(path), bucket, key, Config=transfer, Callback=bar.advance,
                    ExtraArgs={"ChecksumAlgorithm": "SHA256", "Metadata": {SHA256: sent[1]}},
                )  # fmt: skip
                stored = _size_and_sha256(client, bucket, key)
            if stored != sent:
                raise WorkError(
                    f"{uri}: {endpoint()} holds {stored} (bytes, sha256) after {sent} was sent; was {path} changed "
                    f"meanwhile, or does another process write there? Start the run again to send it once more"
                )


def _size_and_sha256(client: Any, bucket: str, key: str) -> tuple[int, str] | None:
    from botocore.exceptions import ClientError

    try:
        head = client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise
    return head["ContentLength"], head["Metadata"].get(SHA256, "")


def download_folder(uri: str, folder: Path) -> None:
    """Copy everything below s3://bucket/prefix into `folder`; each file is whole or absent, its sha256 checked.

    Raises:
        InputError: there is nothing below `uri`, or a key would leave `folder`.
        WorkError: the connection broke, or the bytes are not those that were stored.
    """
    bucket, key = split_uri(uri)
    prefix = f"{key}/" if key else ""
    client = s3_client()
    with _faults(uri):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        objects = [item for page in pages for item in page.get("Contents", []) if not item["Key"].endswith("/")]
    if not objects:
        raise InputError(f"{uri}: there is nothing below this prefix at {endpoint()}; check the bucket and the path")
    with track(sum(item["Size"] for item in objects), f"download {PurePosixPath(key).name or bucket}", "bytes") as bar:
        for item in objects:
            name = PurePosixPath(item["Key"].removeprefix(prefix))
            if ".." in name.parts or name.is_absolute():
                raise InputError(f"{uri}: the key {item['Key']!r} would be written outside {folder}; rename the object")
            _download(client, bucket, item["Key"], folder / name, bar.advance)


def _download(client: Any, bucket: str, key: str, target: Path, callback: Any) -> None:
    uri = f"{SCHEME}{bucket}/{key}"
    with _faults(uri, later=True):
        stored = _size_and_sha256(client, bucket, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        client.download_file(bucket, key, str(part), Callback=callback)
    received = (part.stat().st_size, sha256_of_file(part))
    if stored is None or stored[0] != received[0] or stored[1] not in ("", received[1]):
        part.unlink()
        raise WorkError(f"{uri}: {received} (bytes, sha256) arrived where {stored} is stored; start the run again")
    part.replace(target)


def check_bucket(uri: str) -> None:
    """Prove that below `uri` objects can be written, read and deleted: a probe of a few bytes.

    Raises:
        InputError: naming what is refused and where.
    """
    bucket, key = split_uri(uri)
    probe = f"{key}/.callforge-probe-{uuid.uuid4().hex}".lstrip("/")
    client = s3_client()
    with _faults(uri):
        client.put_object(Bucket=bucket, Key=probe, Body=b"callforge")
        found = client.get_object(Bucket=bucket, Key=probe)["Body"].read()
        client.delete_object(Bucket=bucket, Key=probe)
    if found != b"callforge":
        raise InputError(f"{uri}: {endpoint()} gave back other bytes than were written; is this an S3 store?")


@contextmanager
def _faults(uri: str, later: bool = False) -> Iterator[None]:
    """Turn what boto3 raises into one paragraph. `later`: the store answered before, so silence is its fault."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except CallforgeError:
        raise
    except ClientError as error:
        raise _refusal(uri, error) from error
    except Boto3Error as error:  # the transfer manager wraps what happened
        cause = error.__cause__ or error.__context__
        raise (_refusal(uri, cause) if isinstance(cause, ClientError) else _silence(uri, error, later)) from error
    except (BotoCoreError, HTTPError, ConnectionError, TimeoutError) as error:
        raise _silence(uri, error, later) from error
    except ValueError as error:  # an endpoint that is no URL
        raise InputError(f"{uri}: {error}; set AWS_ENDPOINT_URL_S3 to http(s)://host:port") from None


def _refusal(uri: str, error: Any) -> CallforgeError:
    """The error for an answer of the store that says no."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    where = f"{uri} at {endpoint()}"
    if code == "NoSuchBucket":
        return InputError(f"{where}: there is no such bucket; create it, or name another one")
    if code == "PreconditionFailed":
        return InputError(f"{where}: the object was replaced while it was read; start again when nobody writes there")
    if status == 404:
        return InputError(f"{where}: there is no such object; check the bucket and the path")
    if status in (400, 401, 403):
        return InputError(
            f"{where}: access is refused ({code or status}); check AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, and that they may read, write and delete there"
        )
    return WorkError(f"{where}: the store failed ({code or status}); start the run again when it is well")


def _silence(uri: str, error: Exception, later: bool) -> CallforgeError:
    """The error for no answer at all, or none that could be asked for."""
    from botocore import exceptions

    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return InputError(
            f"{uri} at {endpoint()}: there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    kind = WorkError if later else InputError
    reason = " ".join(str(error).split())[:300]
    return kind(
        f"{uri}: the S3 store at {endpoint()} does not answer ({reason}); check "
        f"AWS_ENDPOINT_URL_S3 and that the store runs"
    )
