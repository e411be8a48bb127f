"""A tiny model that vLLM can serve, adapters for it, and real engines: `make test-vllm` has an environment with vLLM.

The model's generation_config.json asks for penalties and cuts, as those of real models do: none may reach a rollout.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from components.language_models.adapters import attach_adapter
from components.language_models.base_models import resolve_model
from components.language_models.model_directory import load_model
from components.settings import AdapterSettings
from tests.conftest import build_tiny_model
from tests.unit.egpo_rl.egpo_support import shake

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*"]

# 1 GiB for keys and values; engines that end with the interpreter would log to files that pytest has closed.
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}

RANK = 8
CONTEXT = 512
LORA_FLAGS = ("--enable-lora", "--max-lora-rank", str(RANK), "--max-loras", "2")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, with the smallest heads that vLLM's attention for CPUs takes."""
    folder = build_tiny_model(tmp_path_factory.mktemp("vllm") / "tiny-base", head_size=32)
    generation = json.loads((folder / "generation_config.json").read_text())
    generation |= {"repetition_penalty": 1.3, "top_k": 20, "top_p": 0.8, "temperature": 0.3, "max_new_tokens": 7}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.fixture(scope="session")
def make_policy(base: Path) -> Callable[[int], Any]:
    """`make_policy(seed)`: the model with an adapter of its own that is not zero; seed 0 is the model by itself."""

    def make(seed: int, rank: int = RANK) -> Any:
        model = load_model(resolve_model(base), "float32", "cpu").model
        if seed:
            model = attach_adapter(model, AdapterSettings(rank=rank, alpha=2 * rank), seed).eval()
            shake(model)
        return model

    return make


@pytest.fixture(scope="session")
def make_adapter(make_policy: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_adapter(seed)`: the folder of that policy's adapter, as the trainer writes it."""

    def make(seed: int, rank: int = RANK) -> Path:
        folder = tmp_path_factory.mktemp("adapter")
        make_policy(seed, rank).save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
        return folder

    return make


@pytest.fixture(scope="session")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server started as vllm_server.py asks for."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server(base, log, *LORA_FLAGS, "--logprobs-mode", "processed_logprobs") as url:
        yield url


@contextmanager
def running_server(base: Path, log: Path, *flags: str) -> Iterator[str]:
    """vLLM's OpenAI-compatible server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(base), "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", port, "--max-model-len", str(CONTEXT), "--enforce-eager", *flags]
    environment = os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not _healthy(url):
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            return True
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
