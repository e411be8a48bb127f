"""Registration end to end: an adapter becomes weights in S3 and one version that leads back to where it came from."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from components.errors import InputError, WorkError
from components.evaluations.directory import read_evaluation, write_evaluation
from components.evaluations.schema import EvaluatedModel
from components.function_calls.record import RecordError
from components.language_models.adapters import attach_adapter
from components.language_models.base_models import resolve_model, weights_digest
from components.language_models.model_card import BaseModelReference, ModelCard, read_card
from components.language_models.model_directory import load_merged, load_model, save_adapter, save_model
from components.model_registration import register
from components.model_registration.registry import version_source
from components.services import storage, tracking
from components.settings import AdapterSettings, BfclEvalSettings, ModelRegistrationSettings, RunSettings
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage
from components.stages.folder import input_digest, verified_manifest
from pipelines.ask import ask
from tests.evaluation_support import evaluation

IDS = torch.tensor([[5, 80, 300, 41, 7, 7, 99]])


@pytest.fixture
def inputs(tiny_model: Path, tmp_path: Path) -> dict[str, Path]:
    """What EGPO and the evaluation hand over."""
    model = attach_adapter(
        load_model(resolve_model(tiny_model), device="cpu").model, AdapterSettings(rank=4, alpha=8), seed=0
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.05
    card = ModelCard(
        stage="egpo_rl",
        base_model=BaseModelReference(reference=str(tiny_model), sha256=weights_digest(tiny_model)),
        prompt_version="1",
        parents={"records": "ab" * 32},
    )
    save_adapter(model, tmp_path / "egpo_rl" / "model", card)
    for name, weights, marks in (
        ("egpo_rl", weights_digest(tmp_path / "egpo_rl" / "model"), "1110"),
        ("base", card.base_model.sha256, "0000"),
    ):
        model = EvaluatedModel(name=name, reference=name, weights_sha256=weights)
        own = evaluation({"own_calls": marks[::-1], "own_no_call": "1"}, model=model)
        write_evaluation(tmp_path / "bfcl_eval" / name, evaluation({"multiple": marks}, model=model, own=own))
    return {"model": tmp_path / "egpo_rl", "evaluation": tmp_path / "bfcl_eval"}


@pytest.fixture
def stage(inputs: dict[str, Path], tmp_path: Path) -> Callable[..., dict[str, float]]:
    """`stage(artifact_root)` runs the stage as the pipeline does."""

    def call(root: str = "", **config: Any) -> dict[str, float]:
        settings = ModelRegistrationSettings(model_name=tmp_path.name, **{"save_dtype": "float32", **config})
        run = RunSettings(run_id=tmp_path.name, artifact_root=root)
        folder = tmp_path / "model_registration"
        return execute_stage(find_stage("model_registration"), settings, inputs, folder, run, replace=True)

    return call


@pytest.fixture
def client(services: dict[str, str]) -> Any:
    return MlflowClient(services["MLFLOW_TRACKING_URI"])


def test_the_version_is_the_model_and_says_where_it_comes_from(
    stage: Any, root: str, client: Any, inputs: dict[str, Path], tmp_path: Path, tiny_model: Path, services: Any
) -> None:
    metrics = stage(root)
    version = client.get_model_version_by_alias(tmp_path.name, "candidate")
    assert metrics["version"] == int(version.version) == 1
    assert version.source.startswith(f"{root}/{tmp_path.name}/models/")

    adapted, merged = load_model(resolve_model(inputs["model"] / "model")), load_model(resolve_model(version.source))
    with torch.no_grad():
        assert torch.allclose(adapted.model(IDS).logits, merged.model(IDS).logits, atol=1e-5)
        assert not torch.allclose(
            load_model(resolve_model(tiny_model)).model(IDS).logits, merged.model(IDS).logits, atol=1e-2
        )
    assert adapted.tokenizer.get_vocab() == merged.tokenizer.get_vocab()

    tags = version.tags
    assert tags["callforge.run_id"] == tmp_path.name
    assert tags["callforge.base_model"] == str(tiny_model)
    assert tags["callforge.prompt_version"] == "1"
    assert tags["bfcl.mean_non_live"] == tags["bfcl.mean_calls"] == "0.7500"
    assert tags["bfcl.questions"] == "4 of 200" and len(tags) <= 18
    assert (tags["own.calls"], tags["own.no_call"], tags["own.questions"]) == ("0.7500", "1.0000", "5 of 5")
    assert "BFCL calls right 75.0 % (4 of 200 questions)" in version.description
    everything = json.loads((tmp_path / "model_registration" / "registration.json").read_text())["tags"]
    assert everything["callforge.parent.records"] == "ab" * 32
    assert everything["callforge.base_model_sha256"] == weights_digest(tiny_model)
    assert everything["bfcl.official_overall"] == "0.0188" and everything["bfcl.multiple"] == "0.7500"
    for tag, name in (("callforge.evaluation", "egpo_rl"), ("callforge.base_evaluation", "base")):
        storage.download_folder(tags[tag], tmp_path / "from S3" / name)
        assert read_evaluation(tmp_path / "from S3" / name) == read_evaluation(inputs["evaluation"] / name)
    assert len(tags["callforge.commit"]) >= 40
    assert client.get_run(version.run_id).data.tags["callforge.run_id"] == tmp_path.name

    with storage.open_uri(f"{version.source}/manifest.json") as file:
        manifest = json.load(file)
    assert manifest["sha256"] == tags["callforge.manifest_sha256"]
    assert {"model.safetensors", "tokenizer.json", "config.json", "callforge.json"} <= set(manifest["files"])
    folder = tmp_path / "model_registration"
    assert metrics["bytes"] == sum(entry["size"] for entry in manifest["files"].values())
    assert verified_manifest(folder) is not None
    assert not list(folder.rglob("*.safetensors"))  # the weights are in S3 and nowhere else
    everything = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    everything += json.dumps(client.get_run(version.run_id).to_dictionary()) + json.dumps(dict(tags))
    assert services["AWS_SECRET_ACCESS_KEY"] not in everything


def test_a_whole_model_is_registered_as_it_is(
    stage: Any, root: str, client: Any, inputs: dict[str, Path], tmp_path: Path
) -> None:
    source = inputs["model"] / "model"
    save_model(load_merged(resolve_model(source), "cpu"), source, read_card(source))
    del inputs["evaluation"]
    stage(root)
    version = client.get_model_version_by_alias(tmp_path.name, "candidate")
    trained, registered = load_model(resolve_model(source)).model, load_model(resolve_model(version.source)).model
    for (name, weight), (other, same) in zip(trained.named_parameters(), registered.named_parameters(), strict=True):
        assert name == other and torch.equal(weight, same)
    assert read_card(resolve_model(version.source).path).parents["records"] == "ab" * 32
    assert version.tags["callforge.base_model"] == read_card(source).base_model.reference
    with storage.open_uri(f"{version.source}/manifest.json") as file:
        assert json.load(file)["sha256"] == version.tags["callforge.manifest_sha256"]


def test_mlflow_loads_a_version_by_its_alias_and_the_commands_ask_it(
    stage: Any, root: str, client: Any, tmp_path: Path, capsys: Any
) -> None:
    stage(root)
    reference = f"models:/{tmp_path.name}@candidate"
    tool = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
    messages = [{"role": "user", "content": "What time is it?"}]
    request = {"messages": messages, "tools": [tool], "max_tokens": 12}
    wanted = (storage.read_object(f"{version_source(reference)}/requirements.txt") or b"").decode().split()
    assert "torch" in [line.partition("==")[0] for line in wanted] and not any("+" in line for line in wanted)

    model = mlflow.pyfunc.load_model(reference)
    [message] = model.predict(request)
    assert message["role"] == "assistant"
    frame = pd.DataFrame([request, request | {"seed": 0, "temperature": 0.0}])  # NaN where the first has nothing
    assert model.predict(frame) == [message, message]
    # References of some lines that stand for 4**14 schemas: whoever serves the model is not kept busy by a request.
    doubling = {f"a{n}": {"properties": {key: {"$ref": f"#/$defs/a{n + 1}"} for key in "bcde"}} for n in range(14)}
    parameters = {"properties": {"x": {"$ref": "#/$defs/a0"}}, "$defs": doubling}
    with pytest.raises(RecordError, match="too_much_work"):
        model.predict(request | {"tools": [{"name": "f", "parameters": parameters}]})

    pipeline = mlflow.transformers.load_model(reference)
    weights = load_model(resolve_model(version_source(reference))).model
    with torch.no_grad():
        assert torch.equal(pipeline.model(IDS).logits, weights(IDS).logits)

    (tmp_path / "tools.json").write_text(json.dumps([tool]))
    settings = BfclEvalSettings(max_new_tokens=12)
    place, *lines = ask(reference, "What time is it?", tmp_path / "tools.json", settings)
    assert place.text.startswith(f"{root}/{tmp_path.name}/models/")
    assert message["content"] in [line.text.strip() for line in lines]  # a random model calls nothing


KILLS = [
    "components.language_models.model_directory._write_folder",
    "components.model_registration.register.upload_file",
    "mlflow.MlflowClient.create_model_version",
    "mlflow.MlflowClient.set_registered_model_alias",
    "components.model_registration.register.write_page",
]


def test_killed_anywhere_and_started_again_makes_one_version(
    stage: Any, root: str, client: Any, tmp_path: Path
) -> None:
    for point in KILLS:
        process = multiprocessing.get_context("fork").Process(target=_killed_at, args=(point, stage, root))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, point
    assert stage(root)["version"] == 1
    versions = client.search_model_versions(f"name = '{tmp_path.name}'")
    assert [version.version for version in versions] in (["1"], [1])
    assert client.get_model_version_by_alias(tmp_path.name, "candidate").version == versions[0].version


def _killed_at(point: str, stage: Any, root: str) -> None:
    owner, name = point.rsplit(".", 1)
    try:
        target: Any = importlib.import_module(owner)
    except ModuleNotFoundError:
        module, cls = owner.rsplit(".", 1)
        target = getattr(importlib.import_module(module), cls)
    setattr(target, name, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
    stage(root)


def test_a_merged_model_that_was_damaged_since_is_merged_again(stage: Any, root: str, tmp_path: Path) -> None:
    def attempt() -> Path:
        arguments = ("mlflow.MlflowClient.create_model_version", stage, root)
        process = multiprocessing.get_context("fork").Process(target=_killed_at, args=arguments)
        process.start()
        process.join()
        (weights,) = (tmp_path / "model_registration" / "checkpoints").rglob("model.safetensors")
        return weights

    whole, made = attempt().read_bytes(), attempt().stat().st_ino
    assert attempt().stat().st_ino == made, "nothing is merged again without need"
    attempt().write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert attempt().read_bytes() == whole


def test_other_weights_are_another_version(stage: Any, root: str, client: Any, tmp_path: Path) -> None:
    assert stage(root)["version"] == 1
    assert stage(root, save_dtype="bfloat16")["version"] == 2
    one, two = (client.get_model_version(tmp_path.name, number) for number in "12")
    assert one.source != two.source
    assert "model.safetensors" in storage.names_below(one.source)
    assert client.get_model_version_by_alias(tmp_path.name, "candidate").version == two.version


def test_without_mlflow_the_weights_go_to_s3_and_nothing_is_registered(
    stage: Any, root: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "version" not in stage(root)
    assert "nothing was registered" in capsys.readouterr().out
    registration = json.loads((tmp_path / "model_registration" / "registration.json").read_text())
    assert registration["version"] is None
    assert "manifest.json" in storage.names_below(registration["source"])
    assert client.search_model_versions(f"name = '{tmp_path.name}'") == []


def test_without_mlflow_and_s3_the_weights_stay_in_the_folder(
    stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stage()
    load_model(resolve_model(tmp_path / "model_registration" / "model"))
    assert input_digest("model", tmp_path / "model_registration" / "model"), "it can be evaluated"
    assert verified_manifest(tmp_path / "model_registration") is not None


def test_scores_of_other_weights_and_damaged_ones_are_refused_before_the_merge(
    stage: Any, root: str, client: Any, inputs: dict[str, Path], tmp_path: Path
) -> None:
    (inputs["evaluation"] / "base" / "outcomes.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"base/outcomes.jsonl, line 1: not ours"):
        stage(root)
    other = EvaluatedModel(name="other", reference="other", weights_sha256="ef" * 32)
    write_evaluation(inputs["evaluation"] / "egpo_rl", evaluation({"multiple": "1110"}, model=other))
    with pytest.raises(InputError, match=r"bfcl_eval: it is not of this model, .*egpo_rl is of efefef"):
        stage(root)
    assert not list((tmp_path / "model_registration").rglob("*.safetensors"))


def test_an_evaluation_is_found_by_its_weights_whatever_its_folder_is_called(
    stage: Any, root: str, client: Any, inputs: dict[str, Path], tmp_path: Path
) -> None:
    (inputs["evaluation"] / "egpo_rl").rename(inputs["evaluation"] / "trained")
    stage(root)
    tags = client.get_model_version_by_alias(tmp_path.name, "candidate").tags
    assert tags["bfcl.mean_calls"] == "0.7500" and "callforge.base_evaluation" in tags


def test_an_evaluation_made_alone_is_kept_beside_the_weights(
    stage: Any, root: str, client: Any, inputs: dict[str, Path], tmp_path: Path
) -> None:
    inputs["evaluation"] /= "egpo_rl"
    stage(root)
    tags = client.get_model_version_by_alias(tmp_path.name, "candidate").tags
    assert tags["bfcl.mean_calls"] == "0.7500"
    assert "outcomes.jsonl" in storage.names_below(tags["callforge.evaluation"])
    assert "callforge.base_evaluation" not in tags


def test_a_registry_without_s3_is_refused_before_the_merge(stage: Any, client: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run.artifact_root: .*set s3://"):
        stage()
    assert not list((tmp_path / "model_registration").rglob("*.safetensors"))


def test_a_bucket_that_is_not_there_is_refused_before_the_merge(stage: Any, client: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such bucket"):
        stage("s3://no-such-bucket/runs")
    assert not list((tmp_path / "model_registration").rglob("*.safetensors"))


def test_a_registry_that_fails_keeps_the_weights_and_says_so(
    stage: Any, root: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port_forward: Any
) -> None:
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 1.0)
    forward = port_forward(os.environ["MLFLOW_TRACKING_URI"])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    upload = storage.upload_file

    def upload_and_lose_mlflow(path: Path, uri: str) -> None:
        upload(path, uri)
        forward.stop()

    with monkeypatch.context() as lost:
        lost.setenv("MLFLOW_TRACKING_URI", forward.url)
        lost.setattr(register, "upload_file", upload_and_lose_mlflow)
        with pytest.raises(WorkError, match="weights are safe in s3://"):
            stage(root)
    error = json.loads((tmp_path / "model_registration" / "error.json").read_text())
    assert error["exit_code"] == 1
    assert stage(root)["version"] == 1


def test_in_kubeflow_the_version_leads_back_to_the_pipeline_run(
    stage: Any, root: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = client.create_experiment(f"kfp {tmp_path.name}")
    pipeline = client.create_run(experiment, tags={"kfp.pipeline_run_id": "1-2-3", "other": "x"})
    task = client.create_run(experiment, tags={"mlflow.parentRunId": pipeline.info.run_id})
    monkeypatch.setenv("MLFLOW_RUN_ID", task.info.run_id)
    monkeypatch.setenv("CALLFORGE_COMMIT", "0123456789")
    stage(root)
    version = client.get_model_version_by_alias(tmp_path.name, "candidate")
    assert version.run_id == task.info.run_id
    assert version.tags["kfp.pipeline_run_id"] == "1-2-3"
    assert version.tags["callforge.commit"] == "0123456789"
    assert "other" not in version.tags
