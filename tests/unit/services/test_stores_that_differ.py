"""Stores that differ from the real one of the service tests: what can be done with them is done, the rest is named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.errors import CallforgeError, InputError, WorkError
from components.services import storage
from tests.unit.services.fake_s3 import FakeStore, Request, fake_s3
from tests.unit.small_servers import http_server, self_signed_certificate

SHARED = Path(__file__).parents[4] / "shared" / "cases" / "fake_s3.py"
EVERYTHING = {
    "HeadObject", "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "ListObjectsV2",
    "GetObject", "DeleteObject",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "private")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeStore]]:
    """`serve(store)`: the environment leads to it."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(store: FakeStore, certificate: Path | None = None) -> FakeStore:
            stack.enter_context(fake_s3(store, certificate))
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
            if certificate:
                monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
            return store

        yield start


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    return path


def refusing(operation: str, status: int, code: str) -> FakeStore:
    return FakeStore(lambda request: (status, code) if request.operation == operation else None)


def test_the_probe_makes_all_the_calls_of_a_run_and_leaves_nothing(serve: Callable[..., FakeStore]) -> None:
    store = serve(FakeStore())
    storage.check_bucket("s3://bucket/runs")
    assert {request.operation for request in store.asked} == EVERYTHING
    assert not store.objects


def test_no_body_is_sent_in_chunks_with_a_checksum_behind_it(
    serve: Callable[..., FakeStore], file: Path, tmp_path: Path
) -> None:
    """What many stores refuse, and boto3 does over https where a checksum is asked for."""

    def chunked(request: Request) -> tuple[int, str] | None:
        strange = {"x-amz-trailer", "transfer-encoding"} & {name.lower() for name in request.headers}
        return (400, "IncompleteBody") if strange else None

    store = serve(FakeStore(chunked), self_signed_certificate(tmp_path))
    storage.check_bucket("s3://bucket/runs")
    assert storage.upload_file(file, "s3://bucket/file").size == 7
    bodies = [request for request in store.asked if request.operation in ("PutObject", "UploadPart")]
    assert len(bodies) == 3
    assert all(len(request.headers["x-amz-content-sha256"]) == 64 for request in bodies), "the store can check them"


def test_metadata_names_may_come_in_capitals(serve: Callable[..., FakeStore], file: Path) -> None:
    store = serve(FakeStore(title_case=True))
    storage.check_bucket("s3://bucket/runs")
    for _ in range(2):
        storage.upload_file(file, "s3://bucket/file")
    assert [request.operation for request in store.asked].count("PutObject") == 2, "one of the probe, one of the file"


def test_a_store_without_parts_gets_files_whole(serve: Callable[..., FakeStore]) -> None:
    serve(refusing("CreateMultipartUpload", 501, "NotImplemented"))
    storage.check_bucket("s3://bucket/runs")


def test_a_key_that_may_not_be_looked_for_is_written(serve: Callable[..., FakeStore], file: Path) -> None:
    """Without the right to list, S3 answers 403 to HEAD of what is not there."""
    store = FakeStore()
    store.refuse = lambda request: (403, "") if request.operation == "HeadObject" and not store.objects else None
    serve(store)
    assert storage.upload_file(file, "s3://bucket/file").size == 7


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (refusing("ListObjectsV2", 403, "AccessDenied"), r"listing is refused \(AccessDenied\).*s3:ListBucket"),
        (refusing("DeleteObject", 403, "AccessDenied"), r"deleting is refused \(AccessDenied\).*s3:DeleteObject"),
        (refusing("UploadPart", 403, "AccessDenied"), r"writing in parts is refused \(AccessDenied\).*s3:PutObject"),
        (refusing("PutObject", 400, "IncompleteBody"), r"writing is refused \(IncompleteBody\).*proxy"),
        (refusing("PutObject", 400, "AuthorizationHeaderMalformed"), "AWS_DEFAULT_REGION"),
        (refusing("PutObject", 403, "RequestTimeTooSkewed"), "set the clock"),
        (refusing("PutObject", 403, "QuotaExceeded"), "raise the quota"),
        (refusing("PutObject", 400, "EntityTooStrange"), r"writing is refused \(EntityTooStrange: m\)"),
        (refusing("GetObject", 403, "AccessDenied"), r"reading is refused .*s3:GetObject"),
        (FakeStore(keeps_metadata=False), "did not keep the metadata entry sha256"),
    ],
)
def test_what_a_store_cannot_do_is_named(serve: Callable[..., FakeStore], store: FakeStore, said: str) -> None:
    serve(store)
    with pytest.raises(CallforgeError, match=said) as refused:
        storage.check_bucket("s3://bucket/runs")
    blamed = "check AWS_ACCESS_KEY_ID" in str(refused.value)
    assert blamed == ("AccessDenied" in str(refused.value)), "credentials are blamed only where they may be the cause"
    assert not any(b"callforge" in body for body, _ in store.objects.values()) or "deleting" in str(refused.value)


def test_expired_credentials_fail_the_work_wherever_they_are_met(serve: Callable[..., FakeStore], file: Path) -> None:
    """HEAD has no body to say so: the reason is asked for."""
    store = serve(FakeStore())
    storage.upload_file(file, "s3://bucket/file")
    store.refuse = lambda request: (400, "ExpiredToken")
    for call in (
        lambda: storage.upload_file(file, "s3://bucket/file"),
        lambda: storage.content_tag("s3://bucket/file"),
        lambda: storage.read_object("s3://bucket/file"),
        lambda: storage.names_below("s3://bucket/file"),
        lambda: storage.check_bucket("s3://bucket"),
    ):
        with pytest.raises(WorkError, match=r"credentials have expired \(ExpiredToken\).*goes on where it stopped"):
            call()


def test_a_refusal_in_the_middle_fails_the_work(serve: Callable[..., FakeStore], file: Path) -> None:
    serve(refusing("PutObject", 403, "AccessDenied"))
    with pytest.raises(WorkError, match="writing is refused"):
        storage.upload_file(file, "s3://bucket/file")


def test_what_answers_and_is_no_store_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server(400, b"<html>hello") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        with pytest.raises(InputError, match="does not speak S3"):
            storage.names_below("s3://bucket/x")


@pytest.mark.parametrize(
    "call", [storage.content_tag, storage.read_object, lambda uri: storage.open_uri(uri).__enter__()]
)
@pytest.mark.parametrize(("uri", "said"), [("s3://bucket", "whole bucket"), ("s3://bucket/folder/", "whole folder")])
def test_one_object_is_wanted(call: Callable[[str], object], uri: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"{uri}: this names a {said}; give one object, s3://bucket/key"):
        call(uri)


@contextmanager
def shared_case(mode: str, folder: Path) -> Iterator[str]:
    certificate = self_signed_certificate(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"CERT": str(certificate), "KEY": str(certificate), "EXPIRE_WHEN": str(folder / "expire")}
    arguments = [sys.executable, str(SHARED), str(port), *mode.split()]
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"{'https' if 'tls' in mode else 'http'}://localhost:{port}"
        process.kill()


@pytest.mark.skipif(not SHARED.exists(), reason="the shared cases are not beside this checkout")
@pytest.mark.parametrize(
    ("mode", "refusal"),
    [
        ("nochunk tls", ""),
        ("need_length tls", ""),
        ("rawchunk tls", ""),
        ("title", ""),
        ("nolist", "listing is refused"),
        ("expired", "credentials have expired"),
    ],
)
def test_the_shared_cases(mode: str, refusal: str, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with shared_case(mode, tmp_path) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "localhost.pem"))
        (tmp_path / "expire").touch()
        if refusal:
            with pytest.raises(CallforgeError, match=refusal):
                storage.check_bucket("s3://bucket/runs")
        else:
            storage.check_bucket("s3://bucket/runs")
            storage.upload_file(file, "s3://bucket/runs/file")
            assert storage.read_object("s3://bucket/runs/file") == b"weights"
