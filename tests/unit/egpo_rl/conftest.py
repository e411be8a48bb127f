"""A tiny model with an adapter, made-up rollouts on real prompts, and the folders that `train.run` reads."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch

from components.egpo_rl.update import TrainingGroup
from components.function_calls.prompt import build_prompt
from components.language_models.adapters import attach_adapter
from components.language_models.base_models import resolve_model
from components.language_models.model_directory import load_model
from components.language_models.shared_prefix import Group
from components.language_models.tokens import encode_prompt
from components.settings import AdapterSettings
from tests.unit.egpo_rl.egpo_support import shake, stage_inputs


@pytest.fixture
def policy(tiny_model):
    """(model, tokenizer): the tiny model with an adapter that is not zero."""
    loaded = load_model(resolve_model(tiny_model), "float32", "cpu")
    model = attach_adapter(loaded.model, AdapterSettings(rank=4, alpha=8), seed=0).eval()
    shake(model)
    return model, loaded.tokenizer


@pytest.fixture
def make_groups(policy, make_records):
    """`make_groups(rewards_of_each_group)`: groups on real prompts; completions are random tokens of random lengths."""

    def make(rewards: list[list[float]], seed: int = 0) -> list[TrainingGroup]:
        generator = torch.Generator().manual_seed(seed)
        groups = []
        for record, group_rewards in zip(make_records(len(rewards)), rewards, strict=True):
            prompt = encode_prompt(policy[1], build_prompt(record.messages, record.tools))
            lengths = torch.randint(3, 12, (len(group_rewards),), generator=generator).tolist()
            completions = [torch.randint(3, 500, (length,), generator=generator).tolist() for length in lengths]
            masks = [
                [place < 2 + len(completion) // 2 for place in range(len(completion))] for completion in completions
            ]
            groups.append(TrainingGroup(Group(prompt, completions), group_rewards, masks))
        return groups

    return make


@pytest.fixture(scope="session")
def children():
    """Processes that start in milliseconds: forked from one that has imported torch and the stage, and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["egpo_support"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))
    context.Process(target=str).start()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


@pytest.fixture
def inputs(tmp_path, tiny_model, make_records):
    return stage_inputs(tmp_path, tiny_model, make_records(30))
