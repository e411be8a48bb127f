"""The doctor: which services it takes for named, and what it reports of those that are not."""

from __future__ import annotations

import pytest

from pipelines.doctor import Finding, examine
from pipelines.embedded import S3_ADDRESSES
from tests.unit.small_servers import http_server, ssh_server


def findings() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


@pytest.fixture(autouse=True)
def _no_services(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*S3_ADDRESSES, "CALLFORGE_ARTIFACT_ROOT", "MLFLOW_TRACKING_URI", "KFP_ENDPOINT", "KFP_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_not_named_is_no_fault() -> None:
    found = findings()
    assert all(found[name].fine for name in ("S3", "MLflow", "Kubeflow"))
    assert "starts its own" in found["S3"].text and "starts its own" in found["MLflow"].text


@pytest.mark.parametrize("name", S3_ADDRESSES)
def test_every_variable_that_keeps_a_run_from_starting_its_own_store_is_known(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://store.example:9000")
    text = findings()["S3"].text
    assert "http://store.example:9000" in text and "starts its own" not in text


def test_what_speaks_no_http_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with ssh_server() as mlflow, ssh_server() as kubeflow:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
        monkeypatch.setenv("KFP_ENDPOINT", kubeflow)
        found = findings()
    assert not found["MLflow"].fine and mlflow in found["MLflow"].text
    assert not found["Kubeflow"].fine and f"KFP_ENDPOINT: endpoint {kubeflow}" in found["Kubeflow"].text


def test_kubeflow_is_asked_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server(lambda path, login: 200 if login == "Bearer right" else 401) as server:
        monkeypatch.setenv("KFP_ENDPOINT", server.url)
        assert not (refused := findings()["Kubeflow"]).fine and "KFP_TOKEN" in refused.text
        monkeypatch.setenv("KFP_TOKEN", "right")
        assert findings()["Kubeflow"] == Finding("Kubeflow", True, f"{server.url} answers")
