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

from components.language_models.fast_linear import fast_linears
from components.language_models.shared_attention import Segments, use_shared_attention
from components.language_models.shared_prefix import model_parts, run_packed, sharing_obstacle
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
        part = batch[at : at + config.micro_batch_size]
        losses = turn_losses(model, part, padding)
        is_thought = torch.tensor([flag for example in part for flag in example.thought_mask], device=losses.device)
        thought, result = losses[is_thought].sum(), losses[~is_thought].sum()
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


def turn_losses(model: Any, batch: Sequence[Example], padding: int) -> torch.Tensor:
    """Cross-entropy of every token of the turns, record after record [N]; the head sees no other position.

    Models whose attention can be shared get the records as one packed row: no padding, and the beginning that all
    prompts share is computed once. The others get them padded, and so do records that share no beginning. On a
    bfloat16 base the float32 adapter computes in bfloat16 as well; the losses themselves are never below float32.
    """
    # Nothing in common is nothing to share, and an empty product is one that oneDNN divides by.
    packed = model.device.type == "cpu" and not sharing_obstacle(model) and len({e.prompt[0] for e in batch}) == 1
    losses = _packed if packed else _padded
    in_bfloat16 = torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype is torch.bfloat16)
    with in_bfloat16, fast_linears(model):
        logits = losses(model, batch, padding)
    targets = torch.tensor([token for example in batch for token in example.turn], device=logits.device)
    return cross_entropy(logits if logits.dtype is torch.float64 else logits.float(), targets, reduction="none")


def _packed(model: Any, batch: Sequence[Example], _: int) -> torch.Tensor:
    """Logits [N, V] from the row [common beginning | rest of record 1 | rest of record 2 ..]."""
    causal_model, backbone = model_parts(model)
    use_shared_attention(causal_model)
    inputs = [example.prompt + example.turn[:-1] for example in batch]  # the last token predicts nothing
    shared = _common_beginning(inputs)
    rests = [tokens[len(shared) :] for tokens in inputs]
    row, positions, predictors = list(shared), list(range(len(shared))), []
    for example, tokens, rest in zip(batch, inputs, rests, strict=True):
        places = [*range(len(shared)), *range(len(row), len(row) + len(rest))]
        predictors += places[len(example.prompt) - 1 :]
        positions += range(len(shared), len(tokens))
        row += rest
    segments = Segments.of([(len(shared), [len(rest) for rest in rests])], model.device)
    hidden = run_packed(backbone, _tensor(row, model), _tensor(positions, model), segments)
    # Equal prompts share predictors: indexing's backward would add up their gradients in any order (shared_prefix.py).
    return causal_model.get_output_embeddings()(hidden.index_select(0, _tensor(predictors, model)))


def _common_beginning(sequences: list[list[int]]) -> list[int]:
    first, last = min(sequences), max(sequences)  # in the order of lists, all others lie between these two
    differ = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(differ, len(first))]


def _padded(model: Any, batch: Sequence[Example], padding: int) -> torch.Tensor:
    """Logits [N, V] from rows padded on the left, where every turn ends at the last column."""
    lengths = [len(example.prompt) + len(example.turn) for example in batch]
    turn_lengths = [len(example.turn) for example in batch]
    gaps = [max(lengths) - length for length in lengths]
    keep = max(turn_lengths) + 1
    logits = model(
        input_ids=_tensor([[padding] * gap + e.prompt + e.turn for gap, e in zip(gaps, batch, strict=True)], model),
        attention_mask=_tensor([[0] * gap + [1] * n for gap, n in zip(gaps, lengths, strict=True)], model),
        position_ids=_tensor([[0] * gap + list(range(n)) for gap, n in zip(gaps, lengths, strict=True)], model),
        use_cache=False,
        logits_to_keep=keep,
    ).logits
    return torch.cat([logits[row, keep - 1 - length : -1] for row, length in enumerate(turn_lengths)])


def _tensor(values: list[Any], model: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long, device=model.device)
