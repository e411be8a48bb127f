"""The trained adapter reaches an engine that has a model of its own."""

from __future__ import annotations

import json
import re

import pytest
from peft import PeftModel

from components.egpo_rl import rewards, samplers, train
from components.language_models.base_models import resolve_model
from components.language_models.model_directory import load_model
from components.language_models.samplers.transformers import TransformersSampler
from tests.unit.egpo_rl.egpo_support import SMALL, change, odd_letters, outputs_of

CONFIG = change(SMALL, {"update.learning_rate": 0.05, "update.warmup_steps": 0, "rollout.sampler": "vllm_server"})


class OtherEngine:
    """As a server does: its own base model, adapters from folders, nothing shared with the trainer."""

    def __init__(self, base, deaf=False):
        self.base, self.deaf, self.versions = base, deaf, []
        self.sampler = None

    def sync(self, folder, version):
        self.versions.append(version)
        if self.sampler is None or not self.deaf:
            loaded = load_model(resolve_model(self.base), "float32", "cpu")
            self.sampler = TransformersSampler(PeftModel.from_pretrained(loaded.model, folder), loaded.tokenizer)

    def sample(self, *arguments):
        return self.sampler.sample(*arguments)


@pytest.fixture
def run(inputs, tmp_path, tiny_model, monkeypatch):
    monkeypatch.setitem(rewards.REWARDS, "binary", odd_letters)

    def with_engine(config, engine=None):
        if engine is not None:
            monkeypatch.setattr(samplers, "open_sampler", lambda *_, **__: engine)
        folder = tmp_path / f"egpo_rl-{len(list(tmp_path.iterdir()))}"
        train.run(config, inputs, outputs_of(inputs, folder))
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return with_engine


def test_another_engine_samples_from_the_trained_adapter(run, tiny_model):
    expected = run(change(CONFIG, {"rollout.sampler": "transformers"}))
    engine = OtherEngine(tiny_model)
    # Without the correction, whose weights are 1 to the last digits, the two runs are the same to the bit.
    lines = run(change(CONFIG, {"algorithm.importance_cap": 0.0}), engine)
    assert engine.versions == [0, 0, 1, 2, 3], "before the first answers, before each step, before the last answers"
    for line, wanted in zip(lines, expected, strict=True):
        assert line["reward"] == wanted["reward"]
        assert line["grad_norm"] == wanted["grad_norm"]
        assert line["sampler_kl"] < 1e-6


def test_every_adapter_that_is_handed_over_is_named(run, tiny_model, tmp_path, capsys):
    run(CONFIG, OtherEngine(tiny_model))
    told = re.findall(r"the sampler has adapter (\w{12}) \(version (\d)\)\n", capsys.readouterr().out)
    assert [version for _, version in told] == ["0", "0", "1", "2", "3"]
    (card,) = tmp_path.glob("egpo_rl-*/model/callforge.json")
    assert json.loads(card.read_text())["parents"]["adapter"].startswith(told[-1][0])
    assert told[0] == told[1] and len({digest for digest, _ in told}) == 4


def test_an_engine_that_keeps_an_old_adapter_is_noticed(run, tiny_model, capsys):
    lines = run(CONFIG, OtherEngine(tiny_model, deaf=True))
    assert lines[0]["sampler_kl"] < 1e-6 < 0.05 < lines[-1]["sampler_kl"]
    assert "does it serve the trained adapter" in capsys.readouterr().out
