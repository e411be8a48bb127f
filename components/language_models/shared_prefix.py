"""Scores of groups of completions, every prompt computed once: log-probability and entropy, with gradients.

Groups are packed into one row, prompts first and all their completions behind, up to a budget of unique tokens. The
positions of every completion start where its prompt ends, and it sees only that prompt and itself
(shared_attention.py). The first token of a completion is predicted by the last token of the prompt; only predicting
positions reach the head.

`score_padded` computes the same with one padded sequence per completion: the reference, and the way for models that
cannot share. Sampling, losses and optimizer steps are not done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

from components.errors import InputError, WorkError
from components.language_models.fast_linear import fast_linears
from components.language_models.fused_head import log_probability_and_entropy
from components.language_models.shared_attention import ROUTE, Segments, use_shared_attention

CHECKED_TOKENS = 256  # of each completion that the self-check looks at


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt and the completions sampled for it, as token ids; what was sampled is never tokenised again."""

    prompt: list[int]
    completions: list[list[int]]


@dataclass(frozen=True, slots=True)
class Scores:
    """What one forward pass scored: a run of consecutive completions, in the order of the groups.

    The passes of one call, laid end to end, cover every completion token of every group once, in order, so `start`
    is the place of this pass in any tensor made the same way (a reference's log-probabilities, advantages, masks).
    """

    start: int
    completions: list[tuple[int, int]]
    """(group, completion within the group) of each completion."""
    lengths: list[int]
    """Tokens of each completion."""
    log_probability: Tensor
    """[sum of lengths], nats, with gradient under grad mode."""
    entropy: Tensor
    """[sum of lengths], nats, detached."""
    unique_tokens: int
    """Tokens of the groups that went through the model in this pass."""


ScoreFunction = Callable[..., Iterator[Scores]]
Agree = Callable[[int], int]
"""From the passes a process needs to those it makes. All processes of a sharded model must make equally many: passes
beyond the need score nothing, and their gradient is zero."""


def score_groups(
    model: Any,
    groups: Sequence[Group],
    temperature: float,
    *,
    token_budget: int,
    entropy_temperature: float | None = None,
    agree: Agree = int,
) -> Iterator[Scores]:
    """Score all groups, prompts once, one packed forward pass at a time.

    Take the gradient of a pass (`loss.backward()`) before asking for the next one: its graph is then freed.
    A group above the budget is split over passes, its prompt computed once in each.

    Args:
        model: a causal language model, with or without a LoRA adapter; `sharing_obstacle(model)` must be None.
        temperature: logits are divided by it before log-probability and entropy.
        token_budget: most unique tokens in one pass.
        entropy_temperature: where the entropy is to be taken at another temperature.
        agree: how many passes are made.

    Raises:
        InputError: when one prompt with one of its completions is longer than the budget.
    """
    causal_model, _ = model_parts(model)
    use_shared_attention(causal_model)
    start = 0
    for parts in _agreed(_passes(groups, token_budget), agree):
        device = causal_model.device
        layout = _Layout.of(groups, parts, device) if parts else _Layout.of(_NOTHING, [(0, 0)], device)
        score_row = partial(_score_row, model, layout, temperature, entropy_temperature)
        logp, entropy = _as_forward(causal_model, score_row)
        yield _scores(groups, parts, start, logp, entropy, len(layout.tokens) if parts else 0)
        start += len(logp)


def score_padded(
    model: Any,
    groups: Sequence[Group],
    temperature: float,
    *,
    token_budget: int,
    entropy_temperature: float | None = None,
    agree: Agree = int,
) -> Iterator[Scores]:
    """What `score_groups` computes, one left-padded sequence per completion and through the model's own head.

    The budget bounds rows times padded length.
    """
    causal_model, _ = model_parts(model)
    start = 0
    for parts in _agreed(_padded_passes(groups, token_budget), agree):
        rows = [_sequence(groups, part) for part in parts]
        scored = rows or [_sequence(_NOTHING, (0, 0))]
        logp, entropy = _score_rows(causal_model, scored, temperature, entropy_temperature)
        longest = max((len(prompt) + len(completion) for prompt, completion in rows), default=0)
        yield _scores(groups, parts, start, logp, entropy, longest * len(rows))
        start += len(logp)


def _agreed(passes: Iterator[list[tuple[int, int]]], agree: Agree) -> list[list[tuple[int, int]]]:
    """The passes this process needs, then empty ones up to the number that all make."""
    needed = list(passes)
    return needed + [[]] * (agree(len(needed)) - len(needed))


def sharing_obstacle(model: Any) -> str | None:
    """Why this model's prompts cannot be shared, or None when they can."""
    causal_model, _ = model_parts(model)
    config = causal_model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        return f"layers of type {', '.join(sorted(kinds))}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "a sliding attention window"
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1.0):
            return f"scores or logits that are reshaped ({name})"
    if not getattr(causal_model, "_supports_attention_backend", False):
        return f"{type(causal_model).__name__} does not use the attention interface of transformers"
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and module.p > 0 and "lora_dropout" in name:
            return "dropout in the adapter"
        if hasattr(module, "sinks"):
            return "attention sinks"
    if causal_model.device.type not in ("cpu", "cuda"):
        return f"no attention kernel for device {causal_model.device.type}"
    return None


def check_sharing(
    model: Any, groups: Sequence[Group], temperature: float = 1.0, *, token_budget: int, agree: Agree = int
) -> float:
    """Compare the shared path with the padded one; give the largest (float32) or mean difference in nats.

    Completions are cut to CHECKED_TOKENS and padded rows go one by one, since the padded path makes whole logits.
    float32 and wider must agree everywhere to 1e-3 nats; bfloat16 (autocast included) and float16, which change with
    every regrouping of sums, in the mean to 0.02 and for 99 of 100 tokens to 0.2.

    Raises:
        WorkError: when they do not.
    """
    groups = [
        Group(group.prompt, [completion[:CHECKED_TOKENS] for completion in group.completions]) for group in groups
    ]
    with torch.no_grad():
        paths = [
            [scores.log_probability for scores in score(model, groups, temperature, token_budget=budget, agree=agree)]
            for score, budget in ((score_groups, token_budget), (score_padded, 1))
        ]
    if not groups:  # this process only kept the others company
        return 0.0
    shared, padded = map(torch.cat, paths)
    difference = (shared - padded).abs().float()
    causal_model, _ = model_parts(model)
    exact = causal_model.dtype in (torch.float32, torch.float64)
    if exact and not torch.is_autocast_enabled(causal_model.device.type):
        figure, limits = difference.max().item(), "at most 0.001 anywhere"
        right = figure <= 1e-3
    else:
        figure, limits = difference.mean().item(), "at most 0.02 in the mean and 0.2 for 99 of 100 tokens"
        right = figure <= 0.02 and difference.quantile(0.99).item() <= 0.2
    if not right:  # also when it is not a number
        raise WorkError(
            f"the shared-prefix pass and the padded pass differ by {figure:.4g} nats per token on the first batch "
            f"(allowed: {limits}): training on it would be wrong. Please report the model, and the "
            "versions of torch and transformers"
        )
    return figure


_NOTHING = [Group([0], [[]])]  # what a pass that scores nothing computes: one token that predicts nothing


@dataclass(frozen=True, slots=True)
class _Layout:
    """One packed row. The last token of a completion predicts nothing, so it is not part of the row."""

    tokens: Tensor  # [T]
    positions: Tensor  # [T]
    predictors: Tensor  # [N] place in the row that predicts each completion token
    targets: Tensor  # [N]
    segments: Segments

    @classmethod
    def of(cls, groups: Sequence[Group], parts: list[tuple[int, int]], device: torch.device) -> _Layout:
        present = list(dict.fromkeys(index for index, _ in parts))
        prompts = [groups[index].prompt for index in present]
        tokens = list(chain.from_iterable(prompts))
        positions = list(chain.from_iterable(range(len(prompt)) for prompt in prompts))
        ends = dict(zip(present, accumulate(map(len, prompts)), strict=True))
        lengths: dict[int, list[int]] = {index: [] for index in present}
        predictors: list[int] = []
        targets: list[int] = []
        for index, number in parts:
            completion, start = groups[index].completions[number], len(groups[index].prompt)
            if completion:
                predictors += [ends[index] - 1, *range(len(tokens), len(tokens) + len(completion) - 1)]
            targets += completion
            positions += range(start, start + len(completion) - 1)
            tokens += completion[:-1]
            lengths[index].append(max(len(completion) - 1, 0))
        return cls(
            torch.tensor(tokens, device=device),
            torch.tensor(positions, device=device),
            torch.tensor(predictors, dtype=torch.long, device=device),
            torch.tensor(targets, dtype=torch.long, device=device),
            Segments.of([(len(groups[index].prompt), lengths[index]) for index in present], device),
        )


def _passes(groups: Sequence[Group], token_budget: int) -> Iterator[list[tuple[int, int]]]:
    """Consecutive completions whose prompts (once each) and tokens fit the budget together; whole groups if they do."""
    parts: list[tuple[int, int]] = []
    used = 0
    for index, group in enumerate(groups):
        whole = len(group.prompt) + sum(map(len, group.completions))
        if parts and used + whole > token_budget:
            yield parts
            parts, used = [], 0
        used += len(group.prompt)
        for number, completion in enumerate(group.completions):
            if len(group.prompt) + len(completion) > token_budget:
                raise InputError(
                    f"unique_tokens_per_pass: a prompt of {len(group.prompt)} tokens with a completion of "
                    f"{len(completion)} does not fit {token_budget}; raise it, or lower max_prompt_tokens"
                )
            if parts and used + len(completion) > token_budget:
                yield parts
                parts, used = [], len(group.prompt)
            parts.append((index, number))
            used += len(completion)
    if parts:
        yield parts


def _padded_passes(groups: Sequence[Group], token_budget: int) -> Iterator[list[tuple[int, int]]]:
    """Consecutive completions whose number times the longest sequence fits the budget, or one alone."""
    parts: list[tuple[int, int]] = []
    longest = 0
    for index, group in enumerate(groups):
        for number, completion in enumerate(group.completions):
            longest = max(longest, len(group.prompt) + len(completion))
            if parts and longest * (len(parts) + 1) > token_budget:
                yield parts
                parts, longest = [], len(group.prompt) + len(completion)
            parts.append((index, number))
    if parts:
        yield parts


def _as_forward(module: Any, function: Callable[[], Any]) -> Any:
    """Call `function` as if it were the forward of `module`: a sharded one has its own weights (head) within."""
    module.forward = function
    try:
        return module()
    finally:
        del module.forward


def _score_row(
    model: Any, layout: _Layout, temperature: float, entropy_temperature: float | None
) -> tuple[Tensor, Tensor]:
    causal_model, backbone = model_parts(model)
    with fast_linears(model):
        hidden = run_packed(backbone, layout.tokens, layout.positions, layout.segments)
    # Not hidden[...]: a prompt's end predicts every first token, and on a CPU the gradients of places named twice
    # are then added in whatever order the threads come.
    predicting = hidden.index_select(0, layout.predictors)
    return _head(causal_model, predicting, layout.targets, temperature, entropy_temperature)


def _head(
    causal_model: Any, hidden: Tensor, targets: Tensor, temperature: float, entropy_temperature: float | None
) -> tuple[Tensor, Tensor]:
    head = causal_model.get_output_embeddings()
    if type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad:
        # Autocast gives a final LayerNorm's output in float32 on GPUs, and nothing casts inside the fused head.
        hidden = hidden.to(head.weight.dtype)
        return log_probability_and_entropy(hidden, head.weight, targets, temperature, entropy_temperature)
    return _plain(head(hidden), targets, temperature, entropy_temperature)


def _plain(
    logits: Tensor, targets: Tensor, temperature: float, entropy_temperature: float | None
) -> tuple[Tensor, Tensor]:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logps = (logits / temperature).log_softmax(-1)
    with torch.no_grad():
        others = logps if entropy_temperature is None else (logits / entropy_temperature).log_softmax(-1)
        entropy = -torch.linalg.vecdot(others.exp(), others)
    return -torch.nn.functional.nll_loss(logps, targets, reduction="none"), entropy


def _score_rows(
    model: Any, rows: list[tuple[list[int], list[int]]], temperature: float, entropy_temperature: float | None
) -> tuple[Tensor, Tensor]:
    device = model.device
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    keep = max(len(completion) for _, completion in rows) + 1
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, (prompt, completion) in enumerate(rows):
        sequence = torch.tensor(prompt + completion)
        tokens[row, longest - len(sequence) :] = sequence
        mask[row, longest - len(sequence) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=tokens.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
        logits_to_keep=keep,
        use_cache=False,
    ).logits
    logits = torch.cat([logits[row, keep - 1 - len(c) : keep - 1] for row, (_, c) in enumerate(rows)])
    targets = torch.tensor([token for _, completion in rows for token in completion], dtype=torch.long, device=device)
    return _plain(logits, targets, temperature, entropy_temperature)


def _scores(
    groups: Sequence[Group], parts: list[tuple[int, int]], start: int, logp: Tensor, entropy: Tensor, tokens: int
) -> Scores:
    lengths = [len(groups[index].completions[number]) for index, number in parts]
    return Scores(start, parts, lengths, logp, entropy, tokens)


def _sequence(groups: Sequence[Group], part: tuple[int, int]) -> tuple[list[int], list[int]]:
    return groups[part[0]].prompt, groups[part[0]].completions[part[1]]


def model_parts(model: Any) -> tuple[Any, Any]:
    """The causal language model inside an adapter wrapper, and its backbone (everything but the head)."""
    causal_model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return causal_model, causal_model.base_model


def run_packed(backbone: Any, tokens: Tensor, positions: Tensor, route: Any) -> Tensor:
    """Last hidden states [T, H] of one packed row [T]; `route.attend` does the attention of every layer.

    The four-dimensional mask is a stand-in nobody reads: it keeps transformers from making one of T x T.
    """
    unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=tokens.device)
    return backbone(
        input_ids=tokens[None], position_ids=positions[None], attention_mask=unread, use_cache=False, **{ROUTE: route}
    ).last_hidden_state[0]
