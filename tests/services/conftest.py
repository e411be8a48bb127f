"""One real SeaweedFS and one real MLflow server for the whole tier; `services` points the environment at them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.embedded import embedded_services

NAMES = ("AWS_", "MLFLOW_")


@pytest.fixture(scope="session")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(NAMES)}
    with embedded_services(tmp_path_factory.mktemp("embedded")) as environment:
        yield environment
    os.environ.update(kept)


@pytest.fixture
def services(_servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of the servers, set."""
    for name, value in _servers.items():
        monkeypatch.setenv(name, value)
    return _servers


@pytest.fixture
def root(services: dict[str, str], tmp_path: Path) -> str:
    """An s3:// prefix of this test's own."""
    return f"s3://callforge/{tmp_path.name}"
