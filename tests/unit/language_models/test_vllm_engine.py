"""What the in-process engine is started with, against a fake of vLLM; tests/vllm has the real one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.language_models.samplers.vllm_engine import VISIBLE, VllmEngineSampler


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The devices that each engine saw when it started."""
    seen: list[str | None] = []

    def engine(*_: Any, **__: Any) -> object:
        seen.append(os.environ.get(VISIBLE))
        return object()

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=engine))
    return seen


@pytest.mark.parametrize(("before", "own"), [(None, "1"), ("4,6", "6")])
def test_an_engine_sees_the_device_of_its_process_alone(
    before: str | None, own: str, started: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if before:
        monkeypatch.setenv(VISIBLE, before)
    for name, value in (("is_available", True), ("device_count", 2), ("current_device", 1)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    VllmEngineSampler("model", tmp_path, rank=8, dtype="bfloat16", max_tokens=100)
    assert started == [own]
    assert os.environ.get(VISIBLE) == before
