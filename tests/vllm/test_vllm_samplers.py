"""Both vLLM backends on a real vLLM: what they sample, what they say about it, and whose weights it comes from.

The tests run in this order on one engine and one server: first without an adapter, then with one after another.
"""

from __future__ import annotations

import random
import re
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.egpo_rl.algorithms import k3_divergence
from components.errors import WorkError
from components.language_models.samplers import Rollout, Sampler
from components.language_models.samplers.vllm_engine import VllmEngineSampler
from components.language_models.samplers.vllm_server import VllmServerSampler
from components.language_models.shared_prefix import Group, score_groups, score_padded
from tests.vllm.conftest import CONTEXT, RANK

ENDS = list(range(25))  # many, so that a random model ends its turns
PROMPTS = [[random.Random(length).randrange(30, 500) for _ in range(length)] for length in (300, 7, 60)]
SEEDS = [[1, 2, 3, 4, 5, 6], [7, 8, 9], [10, 11]]
LIMIT = 40
NATS = 2e-5  # both sides compute in float32


@pytest.fixture(scope="module", params=["engine", "server"])
def sampler(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sampler]:
    folder = tmp_path_factory.mktemp("published") / "adapters"
    if request.param == "server":
        yield VllmServerSampler([request.getfixturevalue("server")], str(base), folder, ENDS)
        return
    options = {"dtype": "float32", "enforce_eager": True, "disable_log_stats": False}
    sampler = VllmEngineSampler(str(base), folder, rank=RANK, max_tokens=CONTEXT, stop_token_ids=ENDS, **options)
    yield sampler
    sampler.engine.llm_engine.engine_core.shutdown()


def sample(sampler: Sampler) -> list[list[Rollout]]:
    return sampler.sample(PROMPTS, SEEDS, 0.7, LIMIT)


def scored(score: Callable[..., Any], model: Any, groups: list[list[Rollout]]) -> Tensor:
    """The trainer's log-probabilities of all tokens."""
    packed = [
        Group(prompt, [rollout.tokens for rollout in group]) for prompt, group in zip(PROMPTS, groups, strict=True)
    ]
    with torch.no_grad():
        return torch.cat([part.log_probability for part in score(model, packed, 0.7, token_budget=2000)])


def reported(groups: list[list[Rollout]]) -> Tensor:
    return torch.tensor([logp for group in groups for rollout in group for logp in rollout.logprobs or ()])


def tokens(groups: list[list[Rollout]]) -> list[list[list[int]]]:
    return [[rollout.tokens for rollout in group] for group in groups]


def test_a_rollout_per_seed_ends_with_its_end_or_is_cut(sampler: Sampler) -> None:
    groups = sample(sampler)
    assert [len(group) for group in groups] == [6, 3, 2]
    rollouts = [rollout for group in groups for rollout in group]
    assert {rollout.finished for rollout in rollouts} == {True, False}
    for rollout in rollouts:
        assert all(token not in ENDS for token in rollout.tokens[:-1])
        assert rollout.finished == (rollout.tokens[-1] in ENDS)
        assert rollout.finished or len(rollout.tokens) == LIMIT


def test_a_rollout_depends_on_its_seed_and_not_on_its_company(sampler: Sampler) -> None:
    together = sample(sampler)
    assert tokens(together) == tokens(sample(sampler))
    assert len({tuple(rollout.tokens) for group in together for rollout in group}) == sum(map(len, SEEDS))
    ((alone,),) = sampler.sample(PROMPTS[1:2], [SEEDS[1][1:2]], 0.7, LIMIT)
    assert alone.tokens == together[1][1].tokens
    torch.testing.assert_close(reported([[alone]]), reported([[together[1][1]]]), rtol=0, atol=NATS)
    ((one, two),) = sampler.sample(PROMPTS[:1], [[1, 1]], 0.7, LIMIT)
    assert one.tokens == two.tokens == together[0][0].tokens


def test_a_groups_prompt_is_computed_once(sampler: Sampler) -> None:
    prompt = [*reversed(PROMPTS[0])]
    sampler.sample([prompt], [[1]], 0.7, 1)
    before = cache_hits(sampler)
    sampler.sample([prompt], [SEEDS[0]], 0.7, 1)
    assert cache_hits(sampler) - before >= 256 * len(SEEDS[0])  # whole blocks of 128 tokens


def cache_hits(sampler: Any) -> float:
    """Prompt tokens found in the prefix cache so far."""
    if isinstance(sampler, VllmEngineSampler):
        return sum(metric.value for metric in sampler.engine.get_metrics() if metric.name == "vllm:prefix_cache_hits")
    with urllib.request.urlopen(f"{sampler.urls[0]}/metrics") as response:
        return float(re.findall(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", response.read().decode(), re.M)[0])


@pytest.mark.parametrize("score", [score_groups, score_padded])
def test_the_base_models_probabilities_are_the_trainers(
    sampler: Sampler, score: Callable[..., Any], make_policy: Callable[[int], Any]
) -> None:
    groups = sample(sampler)
    torch.testing.assert_close(reported(groups), scored(score, make_policy(0), groups), rtol=0, atol=NATS)


def test_after_a_sync_the_new_adapter_is_sampled_and_no_other(
    sampler: Sampler, make_policy: Callable[[int], Any], make_adapter: Callable[[int], Path]
) -> None:
    """The prompts stay the same, so that a prefix cache which mixed up adapters would give old keys and values."""
    for version in (1, 2, 3):
        sampler.sync(make_adapter(version), version)
        groups = sample(sampler)
        torch.testing.assert_close(
            reported(groups), scored(score_groups, make_policy(version), groups), rtol=0, atol=NATS
        )
        for other in {0, 1, 2, 3} - {version}:
            away = k3_divergence(reported(groups), scored(score_groups, make_policy(other), groups)).mean()
            assert away > 0.05, (version, other)


def test_the_adapter_before_is_gone(sampler: Any, make_adapter: Callable[[int], Path]) -> None:
    known = adapters(sampler)
    for version in (4, 5):
        sampler.sync(make_adapter(version), version)
    (place,) = sampler.folder.iterdir()
    assert place.name.startswith("policy-v5-")
    assert len(adapters(sampler) - known) == 1


def adapters(sampler: Any) -> set[Any]:
    """Those the engine knows."""
    if isinstance(sampler, VllmEngineSampler):
        return set(sampler.engine.llm_engine.list_loras())
    return {model["id"] for model in sampler._ask(sampler.urls[0], "/v1/models")["data"] if model["parent"]}


def test_an_adapter_that_does_not_fit_is_refused_and_the_one_before_stays(
    sampler: Sampler, make_policy: Callable[[int], Any], make_adapter: Callable[..., Path]
) -> None:
    sampler.sync(make_adapter(6), 6)
    with pytest.raises(WorkError, match="LoRA rank 64 is greater than max_lora_rank 8"):
        sampler.sync(make_adapter(7, rank=64), 7)
    groups = sample(sampler)
    torch.testing.assert_close(reported(groups), scored(score_groups, make_policy(6), groups), rtol=0, atol=NATS)
