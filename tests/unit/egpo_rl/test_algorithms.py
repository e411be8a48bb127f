"""The formulas: published values, and the properties that hold for every group (hypothesis)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.egpo_rl.algorithms import (
    clipped_surrogate,
    entropy_bonus,
    group_advantages,
    k3_divergence,
    mean_per_rollout,
    token_weights,
    truncated_importance,
)

FORMS = st.sampled_from(["paper", "clipped"])


@st.composite
def groups(draw):
    """Rewards (binary, or any in [0, 1.5]) and an entropy per rollout."""
    size = draw(st.integers(2, 16))
    reward = draw(st.sampled_from([st.sampled_from([0.0, 1.0]), st.floats(0, 1.5)]))
    rewards = draw(st.lists(reward, min_size=size, max_size=size))
    entropies = draw(st.lists(st.floats(0, 12), min_size=size, max_size=size))
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor(entropies, dtype=torch.float64)


@pytest.mark.parametrize(
    ("right", "of_right", "of_wrong"), [(1, 2.475, -0.354), (2, 1.620, -0.540), (4, 0.935, -0.935), (7, 0.354, -2.475)]
)
def test_advantages_of_a_binary_group_of_eight(right, of_right, of_wrong):
    rewards = torch.tensor([1.0] * right + [0.0] * (8 - right))
    advantages = group_advantages(rewards)
    torch.testing.assert_close(advantages[0].item(), of_right, atol=1e-3, rtol=0)
    torch.testing.assert_close(advantages[-1].item(), of_wrong, atol=1e-3, rtol=0)


def test_unscaled_advantages_are_distances_from_the_mean():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25], [0.5, 0.5, -0.5, -0.5]])
    torch.testing.assert_close(group_advantages(rewards, scale=False), expected)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3])
@pytest.mark.parametrize("size", [2, 3, 8, 16])
@pytest.mark.parametrize("scale", [True, False])
def test_equal_rewards_give_exactly_zero(reward, size, scale):
    assert group_advantages(torch.full((5, size), reward), scale).count_nonzero() == 0


@given(groups(), st.floats(0, 5), st.floats(1.01, 10), FORMS)
@settings(max_examples=150)
def test_bonus_is_bounded_and_keeps_the_sign(group, weight, cap, form):
    rewards, entropies = group
    advantages = group_advantages(rewards)
    bonus = entropy_bonus(advantages, entropies, weight, cap, form)
    raised = advantages + bonus
    limit = advantages.abs() / cap * (1 if form == "paper" else weight)
    assert (bonus >= 0).all()
    assert (bonus <= limit * (1 + 1e-12)).all()
    assert (bonus <= weight * entropies * (1 + 1e-12)).all()
    assert (raised[advantages == 0] == 0).all()
    if form == "paper" or weight <= 1:  # the published variant keeps the sign only while lambda < alpha
        assert (raised.sign() == advantages.sign()).all()


@given(groups(), FORMS)
@settings(max_examples=50)
def test_paper_constants_raise_by_at_most_half(group, form):
    rewards, entropies = group
    advantages = group_advantages(rewards)
    raised = advantages + entropy_bonus(advantages, entropies, 0.4, 2.0, form)
    right, wrong = advantages > 0, advantages < 0
    assert (raised[right] >= advantages[right]).all() and (raised[right] <= 1.5 * advantages[right] + 1e-12).all()
    assert (raised[wrong] >= advantages[wrong]).all() and (raised[wrong] <= advantages[wrong] / 2 + 1e-12).all()


def test_the_two_published_forms_differ_where_the_cap_binds():
    advantages, entropies = torch.tensor([1.0, 1.0, -1.0]), torch.tensor([0.3, 3.0, 3.0])
    torch.testing.assert_close(entropy_bonus(advantages, entropies, 0.4, 2.0, "paper"), torch.tensor([0.12, 0.5, 0.5]))
    torch.testing.assert_close(
        entropy_bonus(advantages, entropies, 0.4, 2.0, "clipped"), torch.tensor([0.12, 0.2, 0.2])
    )


@given(groups(), FORMS)
@settings(max_examples=50)
def test_no_entropy_is_grpo_and_order_is_irrelevant(group, form):
    rewards, entropies = group
    advantages = group_advantages(rewards)
    assert entropy_bonus(advantages, torch.zeros_like(entropies), 0.4, 2.0, form).count_nonzero() == 0
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(0))
    shuffled = group_advantages(rewards[order])
    torch.testing.assert_close(shuffled, advantages[order])
    torch.testing.assert_close(
        entropy_bonus(shuffled, entropies[order], 0.4, 2.0, form),
        entropy_bonus(advantages, entropies, 0.4, 2.0, form)[order],
    )


@pytest.mark.parametrize("form", ["paper", "clipped"])
def test_no_gradient_flows_through_the_entropy(form):
    entropies = torch.tensor([0.1, 5.0], requires_grad=True)
    assert not entropy_bonus(torch.tensor([1.0, -1.0]), entropies, 0.4, 2.0, form).requires_grad


def test_mean_over_the_thought_alone():
    values = torch.tensor([1.0, 3.0, 9.0, 5.0, 7.0])
    rollout = torch.tensor([0, 0, 0, 1, 1])
    thought = torch.tensor([True, True, False, False, False])
    assert mean_per_rollout(values, rollout, 3, thought).tolist() == [2.0, 0.0, 0.0]
    assert mean_per_rollout(values, rollout, 2).tolist() == pytest.approx([13 / 3, 6.0])


def test_clip_cuts_the_gradient_only_where_it_would_go_further():
    old = torch.zeros(4)
    logp = torch.tensor([1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    loss, cut = clipped_surrogate(logp, old, torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2, 0.28)
    loss.sum().backward()
    assert cut.tolist() == [True, False, False, True]
    assert (logp.grad == 0).tolist() == cut.tolist()
    torch.testing.assert_close(loss.detach(), torch.tensor([-1.28, 1.5, -0.5, 0.8]))


def test_on_policy_gradient_is_the_policy_gradient():
    logp = torch.randn(6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    advantages = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0, -1.0])
    loss, cut = clipped_surrogate(logp, logp.detach(), advantages, 0.2, 0.2)
    loss.sum().backward()
    assert not cut.any()
    torch.testing.assert_close(logp.grad, -advantages)


@settings(max_examples=100)
@given(st.floats(-8, 0), st.floats(-8, 0))
def test_k3_is_never_negative_and_zero_where_equal(one, other):
    divergence = k3_divergence(torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)).item()
    assert divergence >= -1e-12
    assert k3_divergence(torch.tensor(one), torch.tensor(one)).item() == 0


@given(st.floats(-200, 200))
@settings(deadline=None)
def test_k3_and_its_gradient_are_exact_up_to_twenty_and_finite_beyond(difference):
    exact = torch.tensor(difference, dtype=torch.float64)
    at = torch.minimum(exact, torch.tensor(20.0, dtype=torch.float64))
    value = torch.expm1(at) - at + torch.expm1(at) * (exact - at)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-3)):
        logp = torch.zeros((), dtype=dtype, requires_grad=True)
        divergence = k3_divergence(logp, torch.tensor(difference, dtype=dtype))
        divergence.backward()
        assert divergence.item() == pytest.approx(value.item(), rel=tolerance, abs=1e-9)
        assert logp.grad.item() == pytest.approx(-torch.expm1(at).item(), rel=tolerance, abs=1e-6)


def test_k3_keeps_what_is_near_the_reference():
    """exp(d) - d - 1 in float32 is off by a tenth at d = 0.001."""
    small = torch.tensor([1e-2, 1e-3, 1e-4])
    torch.testing.assert_close(k3_divergence(torch.zeros(3), small), small**2 / 2, rtol=5e-3, atol=0)


@given(st.floats(-500, 500), st.sampled_from([-1.0, 0.0, 1.0]))
@settings(deadline=None)
def test_the_surrogate_and_its_gradient_are_finite_at_any_ratio(difference, advantage):
    logp = torch.tensor([difference], requires_grad=True)
    loss, cut = clipped_surrogate(logp, torch.zeros(1), torch.tensor([advantage]), 0.2, 0.2)
    loss.sum().backward()
    assert loss.isfinite().all() and logp.grad.isfinite().all()
    if difference > 1:
        assert (logp.grad > 0).item() == (advantage < 0), "a bad token that became likely is pulled down, however far"
    if abs(difference) < 20 and not cut.item():
        expected = -advantage * torch.tensor(difference, dtype=torch.float64).exp().item()
        assert logp.grad.item() == pytest.approx(expected, rel=1e-5)


def test_k3_averages_to_the_divergence():
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * k3_divergence(policy, reference)).sum(), exact)


def test_importance_weights_are_cut_from_above_and_carry_no_gradient():
    trainer = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    weights = truncated_importance(trainer, torch.tensor([-1.0, -5.0, -0.5]), 2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 0.60653067]))
    assert not weights.requires_grad


@given(st.lists(st.integers(1, 30), min_size=2, max_size=10), st.integers(1, 9))
@settings(max_examples=50)
def test_a_batch_split_in_two_weighs_the_same(lengths, cut):
    cut = min(cut, len(lengths) - 1)
    for aggregation in ("token", "sequence", "constant"):
        totals = (aggregation, sum(lengths), len(lengths), 30)
        whole = token_weights(torch.tensor(lengths), *totals)
        parts = [token_weights(torch.tensor(part), *totals) for part in (lengths[:cut], lengths[cut:])]
        torch.testing.assert_close(torch.cat(parts), whole)
        expected = sum(lengths) / (30 * len(lengths)) if aggregation == "constant" else 1.0
        assert whole.sum().item() == pytest.approx(expected, rel=1e-5)
