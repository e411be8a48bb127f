"""EGPOTrainer as a real TRL trainer, on made-up turns whose thoughts are of several lengths."""

from __future__ import annotations

import pytest
import torch

from components.function_calls.prompt import TurnText
from components.language_models.tokens import encode_turn

pytest.importorskip("trl", reason="TRL is in the test extra")
TEMPERATURE = 0.7
WEIGHT, CAP = 0.01, 2.0
THOUGHTS = ["A city is named.", "The user asks for the weather, so the tool it is.", "Once."]
REWARDS = [1.0, 0.0, 0.0, 1.0]


@pytest.fixture
def turns(policy):
    """(token ids, tokens of the thought) of four turns; the last has no thought, and so no bonus."""
    tokenizer = policy[1]
    encoded = [encode_turn(tokenizer, TurnText(thought, "[weather(city='Rome')]")) for thought in THOUGHTS]
    without = tokenizer("[weather(city='Rome')]")["input_ids"]
    return [*((turn.ids, sum(turn.thought_mask)) for turn in encoded), (without, 0)]


@pytest.fixture
def advantages(policy, turns, tmp_path):
    """`advantages(**options)`: what the trainer's loss gets, and the trainer."""
    from datasets import Dataset
    from trl import GRPOConfig

    from components.egpo_rl.trl_trainer import EGPOTrainer

    def of(**options):
        prompt = policy[1]("Weather in Rome?")["input_ids"]
        trainer = EGPOTrainer(
            model=policy[0],
            reward_funcs=lambda completions, **_: REWARDS,
            rollout_func=lambda prompts, _: {
                "prompt_ids": [prompt] * 4,
                "completion_ids": [ids for ids, _ in turns],
                "logprobs": None,
            },
            args=GRPOConfig(
                output_dir=str(tmp_path),
                max_steps=1,
                temperature=TEMPERATURE,
                num_generations=4,
                per_device_train_batch_size=4,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["Weather in Rome?"] * 4}),
            processing_class=policy[1],
            **options,
        )
        seen = []
        loss = trainer._compute_loss
        trainer._compute_loss = lambda model, inputs: seen.append(inputs) or loss(model, inputs)
        trainer.train()
        # Batches are shuffled before the loss: back into the order of the turns.
        (batch,) = seen
        rows = {
            tuple(ids[mask.bool()].tolist()): advantage.item()
            for ids, mask, advantage in zip(
                batch["completion_ids"], batch["completion_mask"], batch["advantages"], strict=True
            )
        }
        return torch.tensor([rows[tuple(ids)] for ids, _ in turns], dtype=torch.float64), trainer

    return of


def thought_entropies(model, tokenizer, turns):
    """Mean entropy of each thought in float64, from whole logits, one sequence at a time."""
    prompt = tokenizer("Weather in Rome?")["input_ids"]
    means = []
    for ids, thought in turns:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double() / TEMPERATURE
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        means.append(entropy[:thought].mean() if thought else torch.tensor(0.0, dtype=torch.float64))
    return torch.stack(means)


def test_advantages_are_grpos_with_the_bonus_of_the_thought(policy, turns, advantages):
    entropies = thought_entropies(*policy, turns)
    plain, _ = advantages(bonus_weight=0.0)
    enhanced, trainer = advantages(bonus_weight=WEIGHT, bonus_cap=CAP)

    expected = WEIGHT * entropies
    assert (expected < plain.abs() / CAP).all(), "uncapped, so that the entropies themselves are compared"
    assert enhanced - plain == pytest.approx(expected, rel=1e-4, abs=1e-6)
    logged = [entry["bonus"] for entry in trainer.state.log_history if "bonus" in entry]
    assert logged == pytest.approx([expected.mean().item()], rel=1e-4)


def test_a_large_bonus_turns_no_sign(advantages):
    plain, _ = advantages(bonus_weight=0.0)
    enhanced, _ = advantages(bonus_weight=100.0, bonus_cap=CAP)
    assert enhanced[:3] == pytest.approx((plain + plain.abs() / CAP)[:3], rel=1e-5)
    assert enhanced[3] == plain[3]


@pytest.mark.parametrize(
    "wrong", [{"bonus_weight": -0.1}, {"bonus_cap": 1.0}, {"bonus_weight": 2.0, "bonus_form": "clipped"}]
)
def test_a_bonus_that_could_turn_signs_is_refused(advantages, wrong):
    with pytest.raises(ValueError, match="must"):
        advantages(**wrong)
