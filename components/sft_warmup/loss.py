"""FunReason's multiscale loss: thought and result weigh what we say, not what their lengths say.

    L = a * L_think + (1 - a) * L_result                                  (2505.20192v1, multiscale loss)

Each L is the mean token cross-entropy of its segment over the whole batch of an optimizer step, so the gradient does
not depend on how the batch is cut into micro-batches. L_think ends at `</think>`; L_result starts with the newline
after it and includes the end-of-turn token. Plain cross-entropy is the mean over all tokens of the turn. Prompts
carry no loss. Nothing here knows of the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy

from components.settings import SftWarmupSettings
from components.sft_warmup.dataset import Example


def batch_loss(
    model: Any,
    batch: Sequence[Example],
    config: SftWarmupSettings,
    padding: int,
    backward: Callable[[torch.Tensor], None] | None = None,
) -> dict[str, float]:
    """The loss of one optimizer step's batch and its two parts, `micro_batch_size` records at a time.

    `backward` is called with each micro-batch's share of the loss; the shares sum to the loss, and so do the gradients.
    """
    thought_weight, result_weight = segment_weights(batch, config.loss, config.thought_weight)
    sums = torch.zeros(2, dtype=torch.float64, device=model.device)
    for at in range(0, len(batch), config.micro_batch_size):
        tensors = collate(batch[at : at + config.micro_batch_size], padding)
        tensors = {name: value.to(model.device) for name, value in tensors.items()}
        losses = turn_cross_entropy(model, tensors)
        thought = losses[tensors["thought_mask"]].sum()
        result = losses[tensors["turn_mask"] & ~tensors["thought_mask"]].sum()
        if backward is not None:
            backward(thought_weight * thought + result_weight * result)
        sums += torch.stack([thought.detach(), result.detach()])
    thought_sum, result_sum = sums.tolist()
    thought_tokens = sum(sum(example.thought_mask) for example in batch)
    result_tokens = sum(len(example.turn) for example in batch) - thought_tokens
    return {
        "loss": thought_weight * thought_sum + result_weight * result_sum,
        "loss_think": thought_sum / thought_tokens,
        "loss_result": result_sum / result_tokens,
    }


def segment_weights(
    batch: Sequence[Example], loss: Literal["multiscale", "cross_entropy"], thought_weight: float
) -> tuple[float, float]:
    """The weights of one thought token and of one result token, so that the weighted sum over the batch is the loss.

    A record without a thought has an empty one: its two tags are thought tokens, and the model learns to leave the
    thought empty as often as the records do.
    """
    thought = sum(sum(example.thought_mask) for example in batch)
    result = sum(len(example.turn) for example in batch) - thought
    if loss == "cross_entropy":
        return 1 / (thought + result), 1 / (thought + result)
    return thought_weight / thought, (1 - thought_weight) / result


def collate(batch: Sequence[Example], padding: int) -> dict[str, torch.Tensor]:
    """Pad on the left, so that every turn ends at the last column and its logits are one slice.

    Returns:
        input_ids, attention_mask, position_ids [B, T]; targets, turn_mask, thought_mask [B, C], C the longest turn.
    """
    width = max(len(example.prompt) + len(example.turn) for example in batch)
    turn_width = max(len(example.turn) for example in batch)

    def left(values: Sequence[int], size: int, fill: int) -> list[int]:
        return [fill] * (size - len(values)) + list(values)

    lengths = [len(example.prompt) + len(example.turn) for example in batch]
    return {
        "input_ids": torch.tensor([left(example.prompt + example.turn, width, padding) for example in batch]),
        "attention_mask": torch.tensor([left([1] * length, width, 0) for length in lengths]),
        "position_ids": torch.tensor([left(range(length), width, 0) for length in lengths]),
        "targets": torch.tensor([left(example.turn, turn_width, padding) for example in batch]),
        "turn_mask": torch.tensor([left([1] * len(example.turn), turn_width, 0) for example in batch]).bool(),
        "thought_mask": torch.tensor([left(example.thought_mask, turn_width, 0) for example in batch]).bool(),
    }


def turn_cross_entropy(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of every token of the turns [B, C], 0 at padding; the head sees no other position.

    On a bfloat16 base the float32 adapter computes in bfloat16 as well; the loss itself is never below float32.
    """
    turn_width = batch["targets"].shape[1]
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype is torch.bfloat16):
        logits = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            use_cache=False,
            logits_to_keep=turn_width + 1,
        ).logits[:, :-1]
    mask = batch["turn_mask"]
    losses = cross_entropy(_at_least_float32(logits[mask]), batch["targets"][mask], reduction="none")
    return torch.zeros(mask.shape, dtype=losses.dtype, device=losses.device).masked_scatter(mask, losses)


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype is torch.float64 else logits.float()
