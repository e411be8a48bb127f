"""The command line as people use it, against real services on this machine and a tiny random model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CallCallforge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def services(servers: dict[str, str]) -> dict[str, str]:
    """The environment of an S3 store and an MLflow server, as somebody's real ones."""
    return servers


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
            cwd=workplace, env=environment | changes, capture_output=True, text=True, timeout=800,
        )  # fmt: skip

    return call


@pytest.fixture(scope="session")
def tiny_run(tiny_model: Path) -> list[str]:
    """Arguments of a run that takes seconds."""
    return ["run", "--profile", "tiny", "--base-model", str(tiny_model), "--artifact-root", "s3://callforge/runs"]
