"""The whole stage with a vLLM that gets every step's adapter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.egpo_rl import rewards
from components.language_models.samplers.vllm_server import VllmServerSampler
from components.settings import EgpoRlSettings, RunSettings
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage
from tests.unit.egpo_rl.egpo_support import SMALL, change, odd_letters, stage_inputs
from tests.vllm.conftest import CONTEXT, RANK

# A rate at which one step moves the policy further than rounding could.
CONFIG = change(
    SMALL,
    {
        "update.learning_rate": 0.02,
        "update.warmup_steps": 0,
        "rollout.max_prompt_tokens": CONTEXT - SMALL.rollout.max_new_tokens,
    },
)


@pytest.fixture
def run(
    base: Path, tmp_path: Path, make_records: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[EgpoRlSettings], list[dict[str, float]]]:
    """Runs the stage; gives its metrics, a line per step."""
    monkeypatch.setitem(rewards.REWARDS, "binary", odd_letters)
    inputs = stage_inputs(tmp_path / "inputs", base, make_records(30), RANK)

    def train_with(config: EgpoRlSettings) -> list[dict[str, float]]:
        folder = tmp_path / "run" / "egpo_rl"
        metrics = execute_stage(find_stage("egpo_rl"), config, inputs, folder, RunSettings(), replace=True)
        assert 0 < metrics["reward"] < 1
        assert (folder / "model" / "adapter_model.safetensors").is_file()
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return train_with


@pytest.mark.parametrize("sampler", ["vllm", "vllm_server"])
def test_every_step_samples_from_the_adapter_as_it_is(
    sampler: str, run: Callable[[EgpoRlSettings], list[dict[str, float]]], request: pytest.FixtureRequest
) -> None:
    urls = (request.getfixturevalue("server"),) if sampler == "vllm_server" else ()
    lines = run(change(CONFIG, {"rollout.sampler": sampler, "rollout.sampler_urls": urls}))
    assert len(lines) == CONFIG.steps
    for line in lines:
        assert math.isfinite(line["grad_norm"]) and line["grad_norm"] > 0
        assert 0 <= line["sampler_kl"] < 1e-8


def test_a_server_that_keeps_the_first_adapter_is_noticed(
    run: Callable[[EgpoRlSettings], list[dict[str, float]]],
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sync = VllmServerSampler.sync
    monkeypatch.setattr(
        VllmServerSampler, "sync", lambda self, *rest: sync(self, *rest) if self.adapter is None else None
    )
    lines = run(change(CONFIG, {"rollout.sampler": "vllm_server", "rollout.sampler_urls": (server,)}))
    assert lines[0]["sampler_kl"] < 1e-8 < 0.01 < lines[-1]["sampler_kl"]
    assert "does it serve the trained adapter" in capsys.readouterr().out
