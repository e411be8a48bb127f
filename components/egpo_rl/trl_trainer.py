"""EGPO for people who stay on TRL; nothing else of callforge imports this, and TRL is theirs to install (1.16)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from trl import GRPOTrainer

from components.egpo_rl.algorithms import BonusForm, entropy_bonus
from components.language_models.tokens import thought_mask


class EGPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer with EGPO's entropy bonus on the advantages (2508.05118v4, section 3); text models only.

    The entropy is the mean over a completion's `<think>...</think>`, nats per token, of the policy that sampled, at the
    sampling temperature. TRL has none when it makes advantages, so each generation costs one more pass without
    gradients; callforge's own engine needs no such pass. GRPOConfig's own scale_rewards="group" and loss_type="dapo"
    give the rest of callforge's loss.

    Args:
        bonus_weight: lambda; bonus_cap: alpha, above 1; bonus_form: see algorithms.entropy_bonus. All else is
            GRPOTrainer's.

    Raises:
        ValueError: bonus_weight below 0, or a bonus that could turn an advantage's sign.
    """

    def __init__(
        self,
        *args: Any,
        bonus_weight: float = 0.4,
        bonus_cap: float = 2.0,
        bonus_form: BonusForm = "paper",
        **kwargs: Any,
    ) -> None:
        smallest_cap = bonus_weight if bonus_form == "clipped" else 1
        if bonus_weight < 0 or bonus_cap <= smallest_cap:
            raise ValueError(
                f"bonus_weight={bonus_weight} must not be below 0, bonus_cap={bonus_cap} must be above {smallest_cap}"
            )
        super().__init__(*args, **kwargs)
        self.bonus = partial(entropy_bonus, weight=bonus_weight, cap=bonus_cap, form=bonus_form)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        completions, mask = batch["completion_ids"], batch["completion_mask"]
        with torch.no_grad():
            _, entropies, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], completions], dim=1),
                torch.cat([batch["prompt_mask"], mask], dim=1),
                completions.size(1),
                self.args.per_device_train_batch_size,
                compute_entropy=True,
            )
        thought = torch.zeros_like(entropies)
        for row, (tokens, length) in enumerate(zip(completions.tolist(), mask.sum(1).tolist(), strict=True)):
            thought[row, :length] = torch.tensor(thought_mask(self.processing_class, tokens[:length])).to(thought)
        # Not a product: where a row is padded, TRL may leave anything.
        entropy = torch.where(thought > 0, entropies, 0.0).sum(1) / thought.sum(1).clamp(min=1)
        bonus = self.bonus(batch["advantages"], entropy)
        batch["advantages"] = batch["advantages"] + bonus
        mode = "train" if self.model.training else "eval"  # type: ignore[union-attr]  # TRL types it as optional
        for name, values in (("entropy_thought", entropy), ("bonus", bonus)):
            self._metrics[mode][name].append(self.accelerator.gather(values).mean().item())
        return batch
