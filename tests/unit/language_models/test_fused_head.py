"""The fused head against the naive form: values, gradients, edges of tiles, extreme logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.language_models import fused_head
from components.language_models.fused_head import log_probability_and_entropy


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_head, "TILE", 7)


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logps = (hidden @ weight.T / temperature).log_softmax(-1)
    return logps.gather(1, targets[:, None])[:, 0], -(logps.exp() * logps).sum(-1).detach()


def inputs(vocabulary: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(vocabulary)
    hidden = torch.randn(9, 5, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(vocabulary, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (9,), generator=generator)
    targets[0], targets[1], targets[2] = 0, vocabulary - 1, min(7, vocabulary - 1)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype), targets


@pytest.mark.parametrize("vocabulary", [1, 6, 7, 8, 50])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_the_naive_form(vocabulary: int, temperature: float) -> None:
    hidden, weight, targets = inputs(vocabulary)
    upstream = torch.linspace(-2, 3, 9, dtype=torch.float64)

    logp, entropy = log_probability_and_entropy(hidden, weight, targets, temperature)
    (ours,) = torch.autograd.grad((logp * upstream).sum(), hidden)
    true_logp, true_entropy = naive(hidden, weight, targets, temperature)
    (true,) = torch.autograd.grad((true_logp * upstream).sum(), hidden)

    torch.testing.assert_close(logp, true_logp, rtol=0, atol=1e-13)
    torch.testing.assert_close(entropy, true_entropy, rtol=0, atol=1e-13)
    torch.testing.assert_close(ours, true, rtol=0, atol=1e-13)


@pytest.mark.parametrize("entropy_temperature", [1.0, 0.3])
def test_entropy_at_a_temperature_of_its_own(entropy_temperature: float) -> None:
    hidden, weight, targets = inputs(50)
    logp, entropy = log_probability_and_entropy(hidden, weight, targets, 0.7, entropy_temperature)
    torch.testing.assert_close(logp, naive(hidden, weight, targets, 0.7)[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(entropy, naive(hidden, weight, targets, entropy_temperature)[1], rtol=0, atol=1e-13)


def test_gradient_agrees_with_finite_differences() -> None:
    hidden, weight, targets = inputs(20)
    assert torch.autograd.gradcheck(lambda h: log_probability_and_entropy(h, weight, targets, 0.7)[0], (hidden,))


def test_entropy_carries_no_gradient() -> None:
    logp, entropy = log_probability_and_entropy(*inputs(20))
    assert logp.requires_grad and not entropy.requires_grad


def test_extreme_logits_stay_finite() -> None:
    hidden, weight, targets = inputs(50, torch.float32, scale=1e4)
    logp, entropy = log_probability_and_entropy(hidden, weight, targets)
    (gradient,) = torch.autograd.grad(logp.sum(), hidden)
    true_logp, _ = naive(hidden, weight, targets, 1.0)
    torch.testing.assert_close(logp, true_logp)
    assert torch.isfinite(gradient).all() and torch.isfinite(entropy).all()


def test_bfloat16_sums_in_float32() -> None:
    """Only the rounding of the inputs remains: sums over the vocabulary are not made in bfloat16."""
    hidden, weight, targets = inputs(3000, torch.bfloat16)
    logp, entropy = log_probability_and_entropy(hidden, weight, targets)
    true_logp, true_entropy = naive(hidden.double(), weight.double(), targets, 1.0)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp.double(), true_logp, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy.double(), true_entropy, rtol=0, atol=1e-5)


def test_no_positions_give_no_values() -> None:
    hidden, weight, _ = inputs(20)
    logp, entropy = log_probability_and_entropy(hidden[:0], weight, torch.zeros(0, dtype=torch.long))
    assert logp.shape == entropy.shape == (0,)


def test_trainable_head_is_refused() -> None:
    hidden, weight, targets = inputs(20)
    with pytest.raises(ValueError, match="frozen"):
        log_probability_and_entropy(hidden, weight.requires_grad_(), targets)
