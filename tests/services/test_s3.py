"""Storage against a real S3 server: what arrives is what was sent, and every refusal says what to do."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.errors import InputError, WorkError
from components.services import storage
from components.settings import DataRefineSettings, RunSettings
from components.stages.catalogue import Stage, find_stage
from components.stages.execution import execute_stage
from components.stages.folder import input_digest, verified_manifest
from components.stages.outputs import Outputs
from components.stages.publishing import resolve_published

MEGABYTE = 2**20


def test_a_folder_comes_back_as_it_was(root: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "checkpoints").mkdir()
    big = random.Random(0).randbytes(70 * MEGABYTE)  # two parts of a multipart upload
    (source / "weights.bin").write_bytes(big)
    (source / "empty").write_bytes(b"")
    (source / "inner" / "Zürich 100 %+#?.txt").write_text("x")
    (source / "checkpoints" / "state").write_text("stays")
    (source / ".hidden").write_text("stays")
    storage.upload_folder(source, f"{root}/a/", skip=("checkpoints",))
    storage.download_folder(f"{root}/a", tmp_path / "copy")
    copied = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert copied == {"weights.bin", "empty", "inner/Zürich 100 %+#?.txt"}
    assert (tmp_path / "copy" / "weights.bin").read_bytes() == big


def test_an_upload_sends_only_what_is_not_there(root: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    storage.upload_folder(tmp_path, root)
    client, (bucket, key) = storage.s3_client(), storage.split_uri(root)
    written = {name: client.head_object(Bucket=bucket, Key=f"{key}/{name}")["LastModified"] for name in "ab"}
    client.put_object(Bucket=bucket, Key=f"{key}/b", Body=b"X")  # same size, other bytes
    storage.upload_folder(tmp_path, root)
    assert client.head_object(Bucket=bucket, Key=f"{key}/a")["LastModified"] == written["a"]
    assert client.get_object(Bucket=bucket, Key=f"{key}/b")["Body"].read() == b"b"


def test_an_object_is_read_as_a_stream(root: str, tmp_path: Path) -> None:
    lines = "".join(f"line {number}\n" for number in range(200_000))
    (tmp_path / "lines.gz").write_bytes(gzip.compress(lines.encode()))
    storage.upload_file(tmp_path / "lines.gz", f"{root}/lines.gz")
    with storage.open_uri(f"{root}/lines.gz") as stream:
        assert stream.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]  # it is buffered
        assert io.TextIOWrapper(gzip.GzipFile(fileobj=stream)).read() == lines


def test_an_object_replaced_while_it_is_read_is_not_mixed(root: str) -> None:
    client, (bucket, key) = storage.s3_client(), storage.split_uri(f"{root}/object")
    client.put_object(Bucket=bucket, Key=key, Body=b"a" * 3 * MEGABYTE)
    with storage.open_uri(f"{root}/object") as stream:
        client.put_object(Bucket=bucket, Key=key, Body=b"b" * 3 * MEGABYTE)
        with pytest.raises(InputError, match="replaced while it was read"):
            stream.read()


def test_a_broken_connection_is_taken_up_again(
    root: str, monkeypatch: pytest.MonkeyPatch, port_forward: Callable[..., Any]
) -> None:
    body = random.Random(1).randbytes(4 * MEGABYTE)
    client, (bucket, key) = storage.s3_client(), storage.split_uri(f"{root}/object")
    client.put_object(Bucket=bucket, Key=key, Body=body)
    forward = port_forward(storage.endpoint(), cut_after=1_500_000)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", forward.url)
    with storage.open_uri(f"{root}/object") as stream:
        assert stream.read() == body
    assert forward.cuts == 2


def test_an_object_is_known_by_its_content(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    client, (bucket, key) = storage.s3_client(), storage.split_uri(f"{root}/records.jsonl")
    config, seen = DataRefineSettings(data=f"{root}/records.jsonl"), []
    for body in (b"one", b"one", b"two"):
        client.put_object(Bucket=bucket, Key=key, Body=body)
        seen.append(storage.content_tag(config.data))
        distinct = {"n": float(len(set(seen)))}
        execute_stage(_stage(lambda *_, n=distinct: n), config, {}, tmp_path / "s", RunSettings(), replace=True)
        assert json.loads((tmp_path / "s" / "manifest.json").read_text())["metrics"] == distinct
    assert seen[0] == seen[1] != seen[2]
    with pytest.raises(InputError, match="no such object"):
        storage.content_tag(f"{root}/missing")


def test_names_below_a_folder(root: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    storage.upload_folder(tmp_path, f"{root}/folder")
    assert storage.names_below(f"{root}/folder") == {"file"}
    assert not storage.names_below(f"{root}/fold")
    assert not storage.names_below(f"{root}/folder/file")


def test_a_bucket_that_works_passes_and_keeps_nothing(root: str) -> None:
    storage.check_bucket(f"{root}/probe")
    assert not storage.names_below(f"{root}/probe")


def test_a_missing_bucket_is_named(services: dict[str, str]) -> None:
    for call in (storage.check_bucket, storage.names_below):
        with pytest.raises(InputError, match=r"s3://no-such-bucket/x.* at http.*no such bucket"):
            call("s3://no-such-bucket/x")


def test_a_missing_object_is_named(root: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such object"), storage.open_uri(f"{root}/missing"):
        pass
    with pytest.raises(InputError, match="nothing below this prefix"):
        storage.download_folder(f"{root}/missing", tmp_path)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_refused_and_not_shown(root: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "wrong-and-private")
    with pytest.raises(InputError, match=rf"writing is refused .*{name}") as error:
        storage.check_bucket(root)
    assert "wrong-and-private" not in str(error.value)


def test_a_refused_endpoint_is_the_input_at_first_and_the_store_later(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"http://127.0.0.1:9 does not answer"):
        storage.check_bucket(root)
    with pytest.raises(WorkError, match=r"http://127.0.0.1:9 does not answer"):
        storage.upload_file(tmp_path / "file", f"{root}/file")


def _stage(function: Callable[..., dict[str, float]], *content: str) -> Stage:
    return dataclasses.replace(find_stage("data_refine"), function=function, content=content)


def test_a_stage_lies_in_s3_with_its_manifest(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def function(config: Any, inputs: Any, outputs: Outputs) -> dict[str, float]:
        outputs.checkpoints.mkdir()
        (outputs.checkpoints / "state").touch()
        (outputs.folder / "result.txt").write_text("x")
        return {"accepted": 1.0}

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run = RunSettings(run_id="one", artifact_root=root)
    execute_stage(_stage(function, "result.txt"), DataRefineSettings(), {}, tmp_path / "stage", run)
    storage.download_folder(resolve_published(f"{root}/one/data_refine"), tmp_path / "copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {"config.json", "manifest.json", "metrics.jsonl", "result.txt"}
    manifest = verified_manifest(tmp_path / "copy")
    assert manifest is not None
    assert manifest == verified_manifest(tmp_path / "stage")


def test_nobody_sees_an_object_of_an_earlier_attempt(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `trained_weights=all` in a run that had an adapter, whoever imports the model finds the whole one."""

    def function(config: DataRefineSettings, inputs: Any, outputs: Outputs) -> dict[str, float]:
        name = "adapter_model.safetensors" if config.seed == 0 else "model.safetensors"
        (outputs.folder / name).write_text(name)
        return {}

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run, places = RunSettings(run_id="two", artifact_root=root), []
    for seed in (0, 1):
        execute_stage(
            _stage(function, "*.safetensors"), DataRefineSettings(seed=seed), {}, tmp_path / "s", run, replace=True
        )
        places.append(resolve_published(f"{root}/two/data_refine"))
    assert places[0] != places[1]
    assert "adapter_model.safetensors" in storage.names_below(places[0]), "whoever reads the first one may go on"
    assert {name for name in storage.names_below(places[1]) if name.endswith(".safetensors")} == {"model.safetensors"}


def test_finished_work_is_published_where_the_run_wants_it(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def function(config: Any, inputs: Any, outputs: Outputs) -> dict[str, float]:
        (outputs.folder / "result.txt").write_text("x")
        return {}

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    there = RunSettings(run_id="three", artifact_root=root)
    for run in (RunSettings(run_id="three"), there):
        execute_stage(_stage(function, "result.txt"), DataRefineSettings(), {}, tmp_path / "s", run)
    storage.write_object(f"{root}/three/data_refine/current.json", b"nobody's")
    execute_stage(_stage(function, "result.txt"), DataRefineSettings(), {}, tmp_path / "s", there)
    assert storage.read_object(f"{resolve_published(f'{root}/three/data_refine')}/result.txt") == b"x"


@pytest.mark.parametrize("damage", ["", "file", "missing", "config", "manifest", "metrics", "pointer", "other work"])
def test_a_new_folder_gets_the_same_work_from_where_the_run_published_it(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, capsys: Any
) -> None:
    """As a step of Kubeflow whose cache key holds more than what decides the result."""
    worked: list[int] = []

    def function(config: DataRefineSettings, inputs: Any, outputs: Outputs) -> dict[str, float]:
        worked.append(config.seed)
        (outputs.folder / "result.txt").write_text("x")
        (outputs.folder / "report.html").write_text("page")
        return {"accepted": 1.0}

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run = RunSettings(run_id="five", artifact_root=root)
    stage = _stage(function, "result.txt")
    execute_stage(stage, DataRefineSettings(), {}, tmp_path / "one", run)
    bucket, key = storage.split_uri(resolve_published(f"{root}/five/data_refine"))
    client = storage.s3_client()
    if damage in ("missing", "config"):
        name = {"missing": "result.txt", "config": "config.json"}[damage]
        client.delete_object(Bucket=bucket, Key=f"{key}/{name}")
    elif damage == "pointer":
        client.put_object(Bucket=bucket, Key=f"{key.rpartition('/')[0]}/current.json", Body=b'{"folder": "../x"}')
    elif damage == "metrics":  # a manifest that agrees with the files, and is not the one that was published
        manifest = json.loads((tmp_path / "one/manifest.json").read_text()) | {"metrics": {"accepted": 0.0}}
        client.put_object(Bucket=bucket, Key=f"{key}/manifest.json", Body=json.dumps(manifest).encode())
    elif damage in ("file", "manifest"):
        name = {"file": "result.txt", "manifest": "manifest.json"}[damage]
        client.put_object(Bucket=bucket, Key=f"{key}/{name}", Body=b"[]")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / ".git").write_text("of somebody else, as in an empty repository or a new home")
    seed = 1 if damage == "other work" else 0
    config = DataRefineSettings(max_lines=1000, seed=seed)  # max_lines decides nothing
    assert execute_stage(stage, config, {}, tmp_path / "two", run) == {"accepted": 1.0}
    told = capsys.readouterr().out
    assert worked == ([0, seed] if damage else [0])
    assert ("published before cannot be taken" in told) == (
        damage in ("file", "missing", "config", "metrics", "pointer")
    )
    assert verified_manifest(tmp_path / "two") is not None and (tmp_path / "two/report.html").read_text() == "page"
    assert (tmp_path / "two/.git").exists()
    times = len(worked)
    execute_stage(stage, config, {}, tmp_path / "three", run)
    assert len(worked) == times and verified_manifest(tmp_path / "three"), "what was damaged is so no more"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]


def test_a_folder_that_is_a_link_gets_it_on_the_disk_that_the_link_leads_to(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def function(config: DataRefineSettings, inputs: Any, outputs: Outputs) -> dict[str, float]:
        (outputs.folder / "result.txt").write_text("x")
        return {}

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "disk" / "two").mkdir(parents=True)
    (tmp_path / "two").symlink_to(tmp_path / "disk" / "two")
    for name in ("one", "two"):
        run = RunSettings(run_id="six", artifact_root=root)
        execute_stage(_stage(function, "result.txt"), DataRefineSettings(), {}, tmp_path / name, run)
    assert (tmp_path / "two").is_symlink() and verified_manifest(tmp_path / "disk" / "two")


@pytest.mark.parametrize("damage", ["file", "missing", "manifest", "pointer"])
def test_a_reader_verifies_what_the_pointer_names(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    def function(config: Any, inputs: Any, outputs: Outputs) -> dict[str, float]:
        (outputs.folder / "result.txt").write_text("x")
        return {}

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run = RunSettings(run_id="four", artifact_root=root)
    execute_stage(_stage(function, "result.txt"), DataRefineSettings(), {}, tmp_path / "s", run)
    client = storage.s3_client()
    bucket, key = storage.split_uri(resolve_published(f"{root}/four/data_refine"))
    if damage == "file":
        client.put_object(Bucket=bucket, Key=f"{key}/result.txt", Body=b"y")
    elif damage == "missing":
        client.delete_object(Bucket=bucket, Key=f"{key}/result.txt")
    elif damage == "manifest":
        client.put_object(Bucket=bucket, Key=f"{key}/manifest.json", Body=b"{}")
    else:
        client.put_object(Bucket=bucket, Key=f"{key.rpartition('/')[0]}/current.json", Body=b'{"folder": "../x"}')
    with pytest.raises(InputError, match=r"other bytes|cannot be read|not the manifest|not the pointer"):
        storage.download_folder(resolve_published(f"{root}/four/data_refine"), tmp_path / "copy")
        input_digest("records", tmp_path / "copy")
