"""The transformers sampler against a loop without any cache; repeatability; the distribution it draws from."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, MistralConfig

from components.errors import WorkError
from components.language_models.samplers import Rollout
from components.language_models.samplers import transformers as sampling
from components.language_models.samplers.transformers import TransformersSampler
from components.language_models.shared_prefix import Group, score_padded

ENDS = set(range(25))  # many, so that a random model ends its turns


@pytest.fixture(autouse=True)
def _ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "end_of_turn_ids", lambda tokenizer: ENDS)


@pytest.fixture(scope="module")
def adapted(tiny_model: Path) -> Any:
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


@pytest.fixture(scope="module")
def sliding() -> Any:
    """A model whose prompts cannot be shared."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, sliding_window=8,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


PROMPTS = [[random.Random(length).randrange(3, 400) for _ in range(length)] for length in (7, 30, 3, 12)]
SEEDS = [[1, 2, 3], [4, 5], [6], [7, 8]]
LIMIT = 70  # past one growth of the cache


def without_cache(model: Any, prompt: list[int], seed: int, temperature: float) -> Rollout:
    """The definition: a whole forward pass per token, inversion of the distribution function in float64."""
    draws = torch.rand(LIMIT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    tokens: list[int] = []
    logprobs = []
    for draw in draws:
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1].double()
        table = (logits / (temperature or 1.0)).log_softmax(-1)
        token = int((table.exp().cumsum(-1) <= draw).sum()) if temperature else int(logits.argmax())
        tokens.append(token)
        logprobs.append(float(table[token]))
        if token in ENDS:
            return Rollout(tokens, True, logprobs)
    return Rollout(tokens, False, logprobs)


def same(ours: Rollout, other: Rollout, nats: float = 1e-4) -> bool:
    assert ours.logprobs is not None and other.logprobs is not None
    return (
        ours.tokens == other.tokens
        and ours.finished == other.finished
        and max(abs(a - b) for a, b in zip(ours.logprobs, other.logprobs, strict=True)) < nats
    )


@pytest.mark.parametrize("name", ["adapted", "sliding"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_samples_what_a_loop_without_cache_samples(
    name: str, temperature: float, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    groups = TransformersSampler(model, None).sample(PROMPTS, SEEDS, temperature, LIMIT)
    assert [len(group) for group in groups] == [3, 2, 1, 2]
    with torch.no_grad():
        for prompt, seeds, group in zip(PROMPTS, SEEDS, groups, strict=True):
            for seed, rollout in zip(seeds, group, strict=True):
                assert same(rollout, without_cache(model, prompt, seed, temperature))


def test_rollouts_end_at_different_steps(adapted: Any) -> None:
    """Guards the test above: rows did leave the batch early, and one was cut."""
    rollouts = [r for group in TransformersSampler(adapted, None).sample(PROMPTS, SEEDS, 0.9, LIMIT) for r in group]
    assert len({len(rollout.tokens) for rollout in rollouts}) > 3
    assert {rollout.finished for rollout in rollouts} == {True, False}
    assert all(rollout.finished == (rollout.tokens[-1] in ENDS) for rollout in rollouts)
    assert all(token not in ENDS for rollout in rollouts for token in rollout.tokens[:-1])


@pytest.mark.parametrize("name", ["adapted", "sliding"])
@pytest.mark.parametrize("rows", [1, 4, 5])
def test_a_rollout_depends_on_its_seed_and_not_on_its_company(
    name: str, rows: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups one after another, or joining while others go on; and one seed alone."""
    sampler = TransformersSampler(request.getfixturevalue(name), None)
    together = sampler.sample(PROMPTS, SEEDS, 0.9, LIMIT)
    monkeypatch.setattr(sampling, "ROWS", rows)
    torch.manual_seed(123)  # the global random state plays no part
    apart = sampler.sample(PROMPTS, SEEDS, 0.9, LIMIT)
    assert [len(group) for group in apart] == [len(group) for group in SEEDS]
    for group, other in zip(together, apart, strict=True):
        assert all(same(one, two) for one, two in zip(group, other, strict=True))
    ((alone,),) = sampler.sample(PROMPTS[1:2], [SEEDS[1][1:]], 0.9, LIMIT)
    assert same(alone, together[1][1])


def test_equal_seeds_give_equal_rollouts_and_others_do_not(adapted: Any) -> None:
    ((one, two, other),) = TransformersSampler(adapted, None).sample(PROMPTS[:1], [[1, 1, 2]], 0.9, LIMIT)
    assert one == two and one.tokens != other.tokens


def test_reported_logprobs_are_those_the_trainer_computes(adapted: Any) -> None:
    groups = TransformersSampler(adapted, None).sample(PROMPTS, SEEDS, 0.7, 20)
    scored = [
        Group(prompt, [rollout.tokens for rollout in group]) for prompt, group in zip(PROMPTS, groups, strict=True)
    ]
    with torch.no_grad():
        trainer = torch.cat([scores.log_probability for scores in score_padded(adapted, scored, 0.7, token_budget=500)])
    reported = torch.tensor([logp for group in groups for rollout in group for logp in rollout.logprobs or ()])
    torch.testing.assert_close(reported, trainer, rtol=0, atol=1e-4)


def test_draws_follow_the_models_distribution(adapted: Any) -> None:
    """Chi-square of first tokens, over the tokens expected at least five times."""
    count = 6000
    (group,) = TransformersSampler(adapted, None).sample([PROMPTS[0]], [list(range(count))], 0.5, 1)
    with torch.no_grad():
        expected = (adapted(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].double() / 0.5).softmax(-1) * count
    seen = torch.bincount(torch.tensor([rollout.tokens[0] for rollout in group]), minlength=len(expected)).double()
    often = expected >= 5
    cells_seen = torch.cat([seen[often], seen[~often].sum()[None]])
    cells_expected = torch.cat([expected[often], expected[~often].sum()[None]])
    freedom = len(cells_seen) - 1
    chi_square = ((cells_seen - cells_expected) ** 2 / cells_expected).sum().item()
    assert freedom > 20 and chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_a_draw_never_falls_on_an_impossible_token() -> None:
    """The largest draw, many times: sums of blocks and sums inside a block round differently."""
    logits = torch.full((3000, 1000), -torch.inf)
    logits[:, 300:400] = 8 * torch.randn(3000, 100, generator=torch.Generator().manual_seed(0))
    token, logprob = sampling._choose(logits, torch.full((3000,), 1 - 2**-53, dtype=torch.float64), 1.0)
    assert ((token >= 300) & (token < 400)).all() and torch.isfinite(logprob).all()


def test_logits_that_are_not_finite_stop_the_run() -> None:
    logits = torch.zeros(2, 1000)
    logits[1, 5] = torch.nan
    with pytest.raises(WorkError, match="not finite"):
        sampling._choose(logits, torch.zeros(2, dtype=torch.float64), 1.0)


def test_the_models_mode_is_left_as_it_was(adapted: Any) -> None:
    adapted.train()
    TransformersSampler(adapted, None).sample(PROMPTS[:1], [[1]], 1.0, 2)
    assert adapted.training and adapted.get_base_model().model.layers[0].training
    adapted.eval()


def test_no_prompts_give_no_groups(adapted: Any) -> None:
    assert TransformersSampler(adapted, None).sample([], [], 1.0, 5) == []
