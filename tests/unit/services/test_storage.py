"""What storage does without a server: local files, and addresses and settings that cannot be right."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from components.errors import InputError
from components.services import storage


def test_a_local_file_opens(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    with storage.open_uri(str(tmp_path / "file")) as file:
        assert file.read() == b"abc"
    assert storage.names_below(str(tmp_path)) == {"file"}
    assert not storage.names_below(str(tmp_path / "other"))


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_local_path_that_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{tmp_path / name}: cannot be read"), storage.open_uri(str(tmp_path / name)):
        pass


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: a pipe or a device"), storage.open_uri(str(tmp_path / "pipe")):
        pass


@pytest.mark.parametrize(
    ("uri", "bucket", "key"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/a/b.gz", "my.bucket-1", "a/b.gz"),
        ("s3://bucket/folder/", "bucket", "folder"),
    ],
)
def test_addresses_are_split(uri: str, bucket: str, key: str) -> None:
    assert storage.split_uri(uri) == (bucket, key)


@pytest.mark.parametrize("uri", ["s3://", "s3://ab/key", "s3://Bucket/key", "s3:///key", "s3://a b c/key", "/bucket"])
def test_wrong_addresses_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match="s3://bucket/key"):
        storage.split_uri(uri)


def test_without_credentials_the_variables_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        storage.check_bucket("s3://bucket/x")


@pytest.mark.parametrize("endpoint", ["localhost:9000", "nonsense", "http://"])
@pytest.mark.usefixtures("no_pauses")
def test_an_endpoint_that_is_no_address_is_named(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL_S3"):
        storage.check_bucket("s3://bucket/x")


def test_a_store_that_is_not_there_is_named_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL_S3"):
        storage.check_bucket("s3://bucket/x")
    assert sum(pauses) < 30


def test_what_is_uploaded_leaves_out_hidden_and_skipped_files(tmp_path: Path) -> None:
    for name in ("a", "b/c", "checkpoints/x", ".hidden", "b/.cache/y", "b/checkpoints"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in storage.files_of(tmp_path, skip=("checkpoints",))]
    assert found == ["a", "b/c", "b/checkpoints"]


def test_a_folder_is_known_by_its_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a")
    first = storage.content_tag(str(tmp_path))
    (tmp_path / ".cache").touch()
    assert storage.content_tag(str(tmp_path)) == first
    (tmp_path / "model.safetensors").write_bytes(b"b")
    second = storage.content_tag(str(tmp_path))
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert len({first, second, storage.content_tag(str(tmp_path))}) == 3
