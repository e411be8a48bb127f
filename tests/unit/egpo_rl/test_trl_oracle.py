"""The same batch through TRL's GRPOTrainer and through ours: same loss, same gradients.

Both get the same advantages (Dr.GRPO's unscaled, as TRL's scale_rewards="none"): else TRL divides by std + 1e-4, we by
std + 1e-6 (verl's). TRL multiplies the KL by the ratio
unless use_bias_correction_kl is off; we do not multiply.
"""

from __future__ import annotations

import pytest
import torch

from components.egpo_rl.distributed import World
from components.egpo_rl.update import Learner, make_batch
from components.language_models.shared_prefix import score_groups
from components.settings import AlgorithmSettings, EgpoRlSettings, RolloutSettings
from tests.unit.egpo_rl.egpo_support import change, gradients, relative_difference

pytest.importorskip("trl", reason="the oracle is in the test extra")
LOSS_TYPES = {"sequence": "grpo", "token": "dapo", "constant": "dr_grpo"}
REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]


@pytest.fixture
def trl_loss(policy, tmp_path):
    """`trl_loss(groups, config, ...)`: TRL's loss, its gradients left in the model."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def loss_of(groups, config, advantages, old_logp, reference_logp):
        arguments = GRPOConfig(
            output_dir=str(tmp_path),
            loss_type=LOSS_TYPES[config.algorithm.aggregation],
            beta=config.algorithm.kl_coefficient,
            temperature=config.rollout.temperature,
            epsilon=config.algorithm.clip_low,
            epsilon_high=config.algorithm.clip_high,
            max_completion_length=config.rollout.max_new_tokens,
            num_generations=4,
            per_device_train_batch_size=12,
            steps_per_generation=1,
            gradient_checkpointing=False,
            use_bias_correction_kl=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
        )
        trainer = GRPOTrainer(
            model=policy[0],
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": ["x"]}),
            processing_class=policy[1],
        )
        trainer.current_gradient_accumulation_steps = 1
        rows = [(group.tokens.prompt, completion) for group in groups for completion in group.tokens.completions]
        prompts, prompt_mask = _padded([prompt for prompt, _ in rows], left=True)
        completions, completion_mask = _padded([completion for _, completion in rows], left=False)
        batch = {
            "prompt_ids": prompts,
            "prompt_mask": prompt_mask,
            "completion_ids": completions,
            "completion_mask": completion_mask,
            "advantages": advantages,
            "num_items_in_batch": completion_mask.sum(),
        }
        lengths = [len(completion) for _, completion in rows]
        for name, flat in (("old_per_token_logps", old_logp), ("ref_per_token_logps", reference_logp)):
            if flat is not None:
                batch[name] = torch.nn.utils.rnn.pad_sequence(flat.split(lengths), batch_first=True)
        policy[0].zero_grad()
        loss = trainer._compute_loss(policy[0], batch)
        loss.backward()
        return loss.item(), gradients(policy[0])

    return loss_of


def _padded(rows, left):
    rows = [torch.tensor(row) for row in rows]
    side = "left" if left else "right"
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return ids, mask


@pytest.mark.parametrize("aggregation", ["sequence", "token", "constant"])
@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize("on_policy", [True, False])
def test_loss_and_gradients_are_trls(policy, make_groups, trl_loss, aggregation, kl, on_policy):
    algorithm = AlgorithmSettings(
        name="grpo",
        aggregation=aggregation,
        scale_advantages=aggregation != "constant",
        kl_coefficient=kl,
        clip_high=0.28,
    )
    config = EgpoRlSettings(algorithm=algorithm, rollout=RolloutSettings(max_new_tokens=16))
    groups = make_groups(REWARDS)
    tokens = sum(len(completion) for group in groups for completion in group.tokens.completions)
    learner = Learner(policy[0], score_groups, config, World())
    # Dead groups stay in TRL's batch; ours leaves them out when KL is off, and must give the same all the same.
    everything = make_batch(groups, change(config, {"algorithm.kl_coefficient": 1.0}), World(), tokens, 12)
    noise = torch.Generator().manual_seed(3)
    logp = torch.cat([scores.log_probability.detach() for scores in learner._scores(everything)])
    old = None if on_policy else logp + 0.3 * torch.randn(tokens, generator=noise)
    reference = logp + 0.3 * torch.randn(tokens, generator=noise) if kl else None

    expected_loss, expected = trl_loss(groups, config, everything.advantages, old, reference)

    policy[0].zero_grad()
    batch = make_batch(groups, config, World(), tokens, 12)
    kept = len(batch.thought)
    batch.reference_logp = reference
    if old is not None:
        batch.old_logp = old[:kept]
        batch.token_advantages = batch.advantages.repeat_interleave(batch.lengths)
    loss, _ = learner.accumulate(batch)

    assert kept == (tokens if kl else tokens - sum(map(len, groups[2].tokens.completions)))
    # Terms of size one cancel in the loss: float32 rounds it to about 1e-7 of a term, however small their sum.
    assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-6)
    assert relative_difference(gradients(policy[0]), expected) < 1e-5
