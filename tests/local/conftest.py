"""The command line as people use it, against real services on this machine and a tiny random model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.embedded import embedded_services

ROOT = Path(__file__).parents[2]
CallCallforge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of an S3 store and an MLflow server that all tests share, as somebody's real ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "MLFLOW_", "CALLFORGE_")):
                patch.delenv(name)
        with embedded_services(tmp_path_factory.mktemp("services")) as environment:
            yield environment


@pytest.fixture(scope="session")
def environment(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the command sees."""
    cache = {"CALLFORGE_CACHE": str(tmp_path_factory.mktemp("cache")), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **services, **cache}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder the commands are run in."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def callforge(environment: dict[str, str], workplace: Path) -> CallCallforge:
    """`callforge("run", "--profile", "tiny", NAME=value)`: the command's end, with its outputs."""

    def call(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *arguments],
            cwd=workplace, env=environment | changes, capture_output=True, text=True, timeout=280,
        )  # fmt: skip

    return call


@pytest.fixture(scope="session")
def tiny_run(tiny_model: Path) -> list[str]:
    """Arguments of a run that takes seconds."""
    return ["run", "--profile", "tiny", "--base-model", str(tiny_model), "--artifact-root", "s3://callforge/runs"]
