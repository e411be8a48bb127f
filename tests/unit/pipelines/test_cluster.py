"""Upload, submit and follow against FakePipelinesApi: a few routes of the real HTTP API, as kfp.Client calls them.

It is not Kubeflow: it shows that the requests are made and the answers understood, not that a cluster accepts them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from components.errors import InputError, WorkError
from pipelines import cluster
from pipelines.compiled_files import COMPILED
from tests.unit.small_servers import http_server, ssh_server


class FakePipelinesApi(ThreadingHTTPServer):
    """State of the fake: what was uploaded and started, and the states that the run goes through."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pipelines: list[dict[str, Any]] = []
        self.uploads: list[bytes] = []
        self.versions: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.states = ["PENDING", "RUNNING", "SUCCEEDED"]
        self.refusals = 0  # so many GETs of the run fail with 503
        self.status = 0  # every request is answered with it
        self.run_status = 0  # those for the run are, after the first
        self.page = b""  # and with this page

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakePipelinesApi

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path, api = urlsplit(self.path).path, self.server
        if api.status:
            self.answer({"error": "no entry"}, api.status)
        elif path.endswith("/healthz"):
            self.answer({"multi_user": False})
        elif path.endswith("/pipelines"):
            (text,) = parse_qs(urlsplit(self.path).query)["filter"]
            (predicate,) = json.loads(text)["predicates"]
            (wanted,) = (value for key, value in predicate.items() if key.lower() in ("stringvalue", "string_value"))
            namespace = parse_qs(urlsplit(self.path).query).get("namespace", [""])[0]
            found = [p for p in api.pipelines if (p["display_name"], p["namespace"]) == (wanted, namespace)]
            self.answer({"pipelines": found})
        elif path.endswith("/experiments"):
            self.answer({"experiments": [{"experiment_id": "e1", "display_name": "callforge"}]})
        elif re.search(r"/runs/r\d+$", path):
            if api.run_status and len(api.states) == 1:
                self.send_response(api.run_status)
                self.send_header("Content-Length", str(len(api.page)))
                self.send_header("Location", "/login")
                self.end_headers()
                self.wfile.write(api.page)
                return
            if api.refusals:
                api.refusals -= 1
                self.answer({"error": "restarting"}, 503)
                return
            state = api.states.pop(0) if len(api.states) > 1 else api.states[0]
            tasks = [{"display_name": "egpo rl", "state": state}, {"display_name": "bfcl eval", "state": "PENDING"}]
            self.answer({"run_id": "r1", "state": state, "run_details": {"task_details": tasks}})
        else:
            self.answer({"error": f"the fake has no {path}"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, api = urlsplit(self.path).path, self.server
        query = dict(re.findall(r"[?&](\w+)=([^&]+)", self.path))
        if api.status:
            self.answer({"error": "no entry"}, api.status)
        elif path.endswith("/pipelines/upload"):
            assert b"pipelineInfo" in body
            api.uploads.append(body)
            namespace = query.get("namespace", "")
            assert not [p for p in api.pipelines if (p["display_name"], p["namespace"]) == (query["name"], namespace)]
            pipeline_id = f"p{len(api.pipelines)}"
            api.pipelines.append({"pipeline_id": pipeline_id, "display_name": query["name"], "namespace": namespace})
            self.answer(api.pipelines[-1])
        elif path.endswith("/pipelines/upload_version"):
            api.versions.append(query["name"])
            self.answer(
                {"pipeline_id": query["pipelineid"], "pipeline_version_id": "v1", "display_name": query["name"]}
            )
        elif path.endswith("/runs"):
            api.runs.append(json.loads(body))
            self.answer({"run_id": "r1", "experiment_id": "e1", "state": "PENDING"})
        else:
            self.answer({"error": f"the fake has no {path}"}, 404)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def api(monkeypatch, tmp_path) -> Iterator[FakePipelinesApi]:
    monkeypatch.setenv("HOME", str(tmp_path))  # kfp.Client keeps a context file there
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    with FakePipelinesApi() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("namespace", [None, "team"])
def test_the_first_upload_makes_pipelines_the_second_versions(api, namespace):
    names = {f"callforge-{path.stem}" for path in COMPILED.glob("*.yaml")}
    assert {name for name, _ in cluster.upload_pipelines(api.address, namespace)} == names
    assert {pipeline["display_name"] for pipeline in api.pipelines} == names and not api.versions
    version = next(iter(dict(cluster.upload_pipelines(api.address, namespace)).values()))
    assert set(api.versions) == {f"{name}-{version}" for name in names}
    assert len(api.pipelines) == len(names)


def test_pipelines_that_are_uploaded_and_submitted_name_the_images_of_the_environment(api, tmp_path):
    """Not those of the files on disk, which were compiled before: Kubeflow would reuse results of another image."""
    script = "import sys; from pipelines import cluster as c; list(c.upload_pipelines(sys.argv[1]));"
    script += "c.submit_run(sys.argv[1], 'gpu8', {'data': 'sample'}, {}, None, None, print)"
    named = {"CALLFORGE_REGISTRY": "registry.example.com:5000/team", "CALLFORGE_IMAGE_TAG": "0f1e2d3c"}
    subprocess.run([sys.executable, "-c", script, api.address], env=os.environ | named, check=True, timeout=120)
    names = {f"registry.example.com:5000/team/callforge-{name}:0f1e2d3c" for name in ("light", "train")}
    found = [set(re.findall(r"[\w.:/-]+/callforge-[\w.:-]+", body.decode())) for body in api.uploads]
    assert len(found) == len(list(COMPILED.glob("*.yaml"))) and set().union(*found) == names
    (sent,) = api.runs
    executors = sent["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors if "container" in executor} == names


def test_a_run_is_started_with_its_parameters_and_settings(api):
    told: list[str] = []
    run = cluster.submit_run(
        api.address, "gpu", {"data": "s3://bucket/data.jsonl.gz", "settings": '{"egpo_rl.seed": 1}'},
        {"egpo_rl.steps": 50}, "mine", None, told.append, service_account="callforge",
    )  # fmt: skip
    (sent,) = api.runs
    assert run == "r1" and sent["display_name"] == "mine" and sent["experiment_id"] == "e1"
    assert sent["service_account"] == "callforge"
    parameters = sent["runtime_config"]["parameters"]
    assert parameters["data"] == "s3://bucket/data.jsonl.gz"
    assert json.loads(parameters["settings"]) == {"egpo_rl.seed": 1, "egpo_rl.steps": 50}
    assert sent["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "callforge-train"
    assert f"{api.address}/#/runs/details/r1" in told[0]


@pytest.mark.parametrize(
    ("profile", "parameters", "settings", "word"),
    [
        ("demo", {}, {}, "gpu, gpu8, paper, paper-lora"),
        ("gpu", {"date": "x"}, {}, "date"),
        ("gpu", {"settings": "{"}, {}, "not JSON"),
        ("gpu", {"artifact_root": "/tmp/x"}, {}, "run.artifact_root"),
        ("gpu", {"data_format": "parquet"}, {}, "data_refine.data_format"),
        ("gpu", {}, {"egpo_rl.stepz": 1}, "did you mean steps?"),
        ("gpu", {"data": "auto"}, {}, "--parameter data: say what to train on"),
        ("gpu", {"steps": "many"}, {}, "egpo_rl.steps"),
    ],
)
def test_what_preflight_would_refuse_is_refused_here(api, profile, parameters, settings, word):
    with pytest.raises(InputError, match=re.escape(word)):
        cluster.submit_run(api.address, profile, parameters, settings, None, None, print)
    assert not api.runs


def test_a_run_is_followed_to_its_end_over_an_api_that_restarts(api):
    told: list[str] = []
    api.refusals = 3
    cluster.follow_run(api.address, "r1", told.append)
    assert told == ["egpo rl: pending", "bfcl eval: pending", "egpo rl: running", "egpo rl: succeeded", "succeeded"]


def test_a_run_that_fails_is_a_failure_of_the_work(api):
    api.states = ["FAILED"]
    with pytest.raises(WorkError, match="failed"):
        cluster.follow_run(api.address, "r1", print)


def test_an_api_that_stays_away_is_given_up(api, monkeypatch):
    monkeypatch.setattr(cluster, "LONGEST_SILENCE", 0.05)
    api.refusals = 10_000
    with pytest.raises(WorkError, match=r"no answer.*the run goes on.*callforge follow r1"):
        cluster.follow_run(api.address, "r1", print)


@pytest.mark.parametrize(("status", "page"), [(401, b"{}"), (403, b"no"), (302, b""), (200, b"<html>log in")])
def test_a_login_that_ends_is_told_at_once_and_that_the_run_goes_on(api, status, page):
    """A token that expires; a gateway that sends to its login page, or shows it."""
    told: list[str] = []
    api.states, api.run_status, api.page = ["RUNNING", "RUNNING"], status, page
    with pytest.raises(WorkError, match=r"the login has ended.*the run goes on.*callforge follow r1") as ended:
        cluster.follow_run(api.address, "r1", told.append)
    assert (
        ended.value.exit_code == 1
        and f"--endpoint {api.address}" in str(ended.value)
        and "KFP_TOKEN" in str(ended.value)
    )
    assert told[0] == "egpo rl: running"


def test_a_run_that_is_not_there_is_named(api):
    api.states, api.run_status = ["RUNNING"], 404
    with pytest.raises(InputError, match="there is no run r1"):
        cluster.follow_run(api.address, "r1", print)


def test_an_api_that_refuses_is_named_with_the_remedy(api):
    api.status = 401
    with pytest.raises(InputError, match="KFP_TOKEN"):
        list(cluster.upload_pipelines(api.address))


def test_what_is_no_api_is_named():
    with ssh_server() as address, pytest.raises(InputError, match=f"endpoint {address}: nobody answers .*HTTP"):
        list(cluster.upload_pipelines(address))
    with http_server(503) as server, pytest.raises(InputError, match=r"it answers 503.*ml-pipeline"):
        list(cluster.upload_pipelines(server.url))


def test_no_login_is_told(monkeypatch):
    """One in the address, which kfp.Client would leave out; a token with a line break, which http.client quotes."""
    with pytest.raises(InputError, match=r"endpoint https://kubeflow\.example: .*KFP_TOKEN") as login:
        list(cluster.upload_pipelines("https://user:private@kubeflow.example"))
    monkeypatch.setenv("KFP_TOKEN", "private\n")
    with pytest.raises(InputError, match="the token has a line break") as token:
        list(cluster.upload_pipelines("http://127.0.0.1:9"))
    assert "private" not in str(login.value) + str(token.value)
