"""The gradient of a batch: what must not change it, and what must."""

from __future__ import annotations

import math
import signal

import pytest
import torch
from peft import LoraConfig, get_peft_model

from components.egpo_rl.algorithms import entropy_bonus, group_advantages
from components.egpo_rl.distributed import World
from components.egpo_rl.interruption import Interruption, StoppedError
from components.egpo_rl.update import Learner, TrainingGroup, make_batch, recompute_activations
from components.language_models.base_models import resolve_model
from components.language_models.model_directory import load_model
from components.language_models.shared_prefix import score_groups, score_padded
from components.settings import EgpoRlSettings, RolloutSettings
from tests.unit.egpo_rl.egpo_support import change, gradients, relative_difference, shake

REWARDS = [[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
WORLD = World()
SHORT = EgpoRlSettings(rollout=RolloutSettings(max_prompt_tokens=16, max_new_tokens=16))


def totals(groups):
    lengths = [len(completion) for group in groups for completion in group.tokens.completions]
    return sum(lengths), len(lengths)


def learn(policy, groups, changes=None, score=score_groups):
    """(loss, gradients, sums) of one sweep."""
    config = change(SHORT, changes or {})
    policy[0].zero_grad()
    loss, sums = Learner(policy[0], score, config, WORLD).accumulate(make_batch(groups, config, WORLD, *totals(groups)))
    return loss, gradients(policy[0]), sums


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_dropping_dead_groups_changes_nothing(policy, make_groups, aggregation):
    groups = make_groups(REWARDS)
    _, dropped, sums = learn(policy, groups, {"algorithm.aggregation": aggregation})
    # A KL coefficient too small to pull keeps the dead groups in.
    _, kept, kept_sums = learn(
        policy, groups, {"algorithm.aggregation": aggregation, "algorithm.kl_coefficient": 1e-30}
    )
    assert sums["entropy_answer"][1] < kept_sums["entropy_answer"][1]
    assert relative_difference(dropped, kept) < 1e-5


@pytest.mark.parametrize("budget", [64, 400, 16384])
def test_neither_budget_nor_sharing_nor_order_changes_the_gradient(policy, make_groups, budget):
    groups = make_groups(REWARDS)
    longest = max(len(group.tokens.prompt) for group in groups) + 12
    loss, expected, sums = learn(policy, groups, score=score_padded)
    other_loss, given, other_sums = learn(policy, groups[::-1], {"update.unique_tokens_per_pass": max(budget, longest)})
    assert other_loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert relative_difference(given, expected) < 1e-4
    for name in ("entropy_thought", "entropy_answer", "bonus", "bonus_spread"):
        assert other_sums[name] == pytest.approx(sums[name], rel=1e-4)
    assert other_sums["unique_token_share"][0] < sums["unique_token_share"][0]


def test_recomputed_activations_give_the_same_gradient(policy, make_groups):
    groups = make_groups(REWARDS)
    _, expected, _ = learn(policy, groups)
    recompute_activations(policy[0])
    assert policy[0].get_base_model().model.layers[0].gradient_checkpointing
    _, given, _ = learn(policy, groups)
    assert relative_difference(given, expected) < 1e-5


def test_recomputed_activations_switch_no_dropout_on(tiny_model, make_groups):
    model = load_model(resolve_model(tiny_model), "float32", "cpu").model.eval()
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", r=2, lora_dropout=0.9)).eval()
    shake(model)
    group = make_groups(REWARDS[:1])[0].tokens
    (expected,) = score_padded(model, [group], 0.7, token_budget=16384)
    recompute_activations(model)
    (given,) = score_padded(model, [group], 0.7, token_budget=16384)
    assert torch.equal(given.log_probability, expected.log_probability)


@pytest.mark.parametrize("scope", ["thought", "completion", "token"])
@pytest.mark.parametrize("form", ["paper", "clipped"])
def test_on_policy_gradient_is_that_of_advantage_times_log_probability(policy, make_groups, scope, form):
    groups = make_groups(REWARDS)
    _, given, _ = learn(policy, groups, {"algorithm.entropy_scope": scope, "algorithm.bonus_form": form})
    policy[0].zero_grad()
    tokens, _ = totals(groups)
    for group in groups:
        advantages = group_advantages(torch.tensor(group.rewards))
        for index, completion in enumerate(group.tokens.completions):
            row = torch.tensor([group.tokens.prompt + completion])
            logits = policy[0](row).logits[0, len(group.tokens.prompt) - 1 : -1] / 0.7
            logps = logits.log_softmax(-1)
            entropy = -(logps.exp() * logps).sum(-1).detach()
            if scope == "thought":
                entropy = entropy[torch.tensor(group.thought_masks[index])].mean()
            elif scope == "completion":
                entropy = entropy.mean()
            bonus = entropy_bonus(advantages[index], entropy, 0.4, 2.0, form)
            chosen = logps.gather(1, torch.tensor(completion)[:, None])[:, 0]
            (-((advantages[index] + bonus) * chosen).sum() / tokens).backward()
    assert relative_difference(given, gradients(policy[0])) < 1e-4


def test_egpo_without_weight_is_grpo(policy, make_groups):
    groups = make_groups(REWARDS)
    _, egpo, _ = learn(policy, groups)
    _, without, _ = learn(policy, groups, {"algorithm.bonus_weight": 0.0})
    _, grpo, sums = learn(policy, groups, {"algorithm.name": "grpo"})
    assert relative_difference(without, grpo) == 0
    assert relative_difference(egpo, grpo) > 0.01
    assert "bonus" not in sums


@pytest.mark.parametrize("score", [score_groups, score_padded])
def test_raw_entropies_are_those_at_temperature_one(policy, make_groups, score):
    groups = make_groups(REWARDS)
    small = {"algorithm.bonus_weight": 0.01}  # not capped
    _, scaled, _ = learn(policy, groups, small, score)
    _, given, raw = learn(policy, groups, small | {"algorithm.raw_entropy": True}, score)
    _, _, at_one = learn(policy, groups, small | {"rollout.temperature": 1.0}, score)
    for name in ("entropy_thought", "entropy_answer", "bonus"):
        assert raw[name] == pytest.approx(at_one[name], rel=1e-4)
    assert relative_difference(given, scaled) > 1e-4


def test_without_a_thought_there_is_no_bonus(policy, make_groups):
    groups = [
        TrainingGroup(group.tokens, group.rewards, [[False] * len(mask) for mask in group.thought_masks])
        for group in make_groups(REWARDS)
    ]
    assert relative_difference(learn(policy, groups)[1], learn(policy, groups, {"algorithm.name": "grpo"})[1]) == 0


@pytest.mark.parametrize("trained", ["adapter", "all"])
def test_the_reference_is_the_policy_at_the_start(policy, make_groups, trained):
    groups = make_groups(REWARDS)
    config = change(SHORT, {"algorithm.kl_coefficient": 0.1, "update.learning_rate": 1e-2, "update.warmup_steps": 0})
    model = policy[0] if trained == "adapter" else policy[0].merge_and_unload().requires_grad_(True)
    learner = Learner(model, score_groups, config, WORLD)
    start = {name: item.detach().clone() for name, item in learner.parameters.items()}
    _, sums = learner.learn(make_batch(groups, config, WORLD, *totals(groups)), 0)
    noise = sums["kl"][0]  # both passes compute the same; where kernels differ without gradients, up to rounding
    _, sums = learner.learn(make_batch(groups, config, WORLD, *totals(groups)), 1)
    assert 0 <= 1e5 * noise < sums["kl"][0]
    moved = [(item - start[name]).abs().max().item() for name, item in learner.parameters.items()]
    assert min(moved) > 0, "the reference pass put the current weights back"


def test_a_signal_in_the_reference_pass_leaves_the_policy_whole(policy, make_groups, monkeypatch):
    config = change(SHORT, {"algorithm.kl_coefficient": 0.1})
    learner = Learner(policy[0], score_groups, config, WORLD)
    shake(policy[0], seed=2)  # away from the reference
    before = {name: item.detach().clone() for name, item in learner.parameters.items()}
    interruption, write = Interruption(), learner._write

    def struck(values):
        write(values)
        interruption._strike(signal.SIGTERM, None)

    monkeypatch.setattr(learner, "_write", struck)
    groups = make_groups(REWARDS)
    with pytest.raises(StoppedError):
        learner.learn(make_batch(groups, config, WORLD, *totals(groups)), 0, interruption)
    assert all(torch.equal(item, before[name]) for name, item in learner.parameters.items())


def test_later_updates_of_a_batch_are_clipped_against_the_first(policy, make_groups):
    groups = make_groups(REWARDS)
    config = change(SHORT, {"update.updates_per_batch": 4, "update.learning_rate": 3e-2, "update.warmup_steps": 0})
    learner = Learner(policy[0], score_groups, config, WORLD)
    batch = make_batch(groups, config, WORLD, *totals(groups))
    _, sums = learner.learn(batch, 0)
    assert sums["clip_share"][0] > 0
    fresh = make_batch(groups, change(config, {"update.updates_per_batch": 1}), WORLD, *totals(groups))
    assert learner.accumulate(fresh)[1]["clip_share"][0] == 0


def test_samplers_mismatch_is_corrected_only_for_another_engine(policy, make_groups):
    groups = make_groups(REWARDS)
    config = SHORT
    learner = Learner(policy[0], score_groups, config, WORLD)
    everything = make_batch(groups, change(config, {"algorithm.kl_coefficient": 1.0}), WORLD, *totals(groups))
    logp = torch.cat([scores.log_probability.detach() for scores in learner._scores(everything)])
    low = (logp - math.log(1.5)).tolist()  # the sampler found every token 1.5 times less likely than the trainer
    reported = []
    for group in groups:
        count = sum(map(len, group.tokens.completions))
        reported.append(TrainingGroup(group.tokens, group.rewards, group.thought_masks, low[:count]))
        low = low[count:]
    _, plain, _ = learn(policy, groups)
    _, own, sums = learn(policy, reported)
    assert relative_difference(own, plain) == 0
    assert sums["sampler_kl"][0] / sums["sampler_kl"][1] == pytest.approx(1.5 - math.log(1.5) - 1, rel=1e-3)
    for cap, factor in ((2.0, 1.5), (1.2, 1.2), (0.0, 1.0)):
        _, corrected, _ = learn(policy, reported, {"rollout.sampler": "vllm", "algorithm.importance_cap": cap})
        scaled = {name: grad * factor for name, grad in plain.items()}
        assert relative_difference(corrected, scaled) < 1e-4


def test_a_step_without_any_advantage_is_a_zero_gradient(policy, make_groups):
    config = SHORT
    learner = Learner(policy[0], score_groups, config, WORLD)
    before = {name: item.detach().clone() for name, item in learner.parameters.items()}
    groups = make_groups([[1.0] * 4, [0.0] * 4])
    figures, sums = learner.learn(make_batch(groups, config, WORLD, *totals(groups)), 0)
    assert (figures["loss"], figures["grad_norm"], sums) == (0, 0, {})
    assert all(torch.equal(item, before[name]) for name, item in learner.parameters.items())


def test_gradients_that_are_not_finite_leave_the_adapter_alone(policy, make_groups):
    config = change(SHORT, {"update.updates_per_batch": 3})
    learner = Learner(policy[0], score_groups, config, WORLD)
    before = {name: item.detach().clone() for name, item in learner.parameters.items()}
    groups = make_groups([[math.inf, 0.0, 0.0, 1.0]])
    figures, _ = learner.learn(make_batch(groups, config, WORLD, *totals(groups)), 0)
    assert not math.isfinite(figures["grad_norm"])
    assert all(torch.equal(item, before[name]) for name, item in learner.parameters.items())
