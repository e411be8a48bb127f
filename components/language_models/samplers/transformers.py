"""Sampling from a transformers model in this process: prompts computed once, groups decoded together.

Groups of several prompts form one batch; every decode step reads the weights once for all of them, and a group's
prompt keys and values once for all its rows (prefix_cache.py). Rows that end leave the batch. Nothing is compiled and
no logits matrix of a prompt is made.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.language_models.fast_linear import fast_linears
from components.language_models.samplers import Rollout
from components.language_models.samplers.prefix_cache import CopiedCache, PrefixCache
from components.language_models.shared_prefix import sharing_obstacle
from components.language_models.tokens import end_of_turn_ids
from components.services.errors import WorkError

ROWS = 64  # rows decoded together
MERGING_PAYS = 16  # decode steps after which adding the adapter to a copy of the weights has paid for itself
BLOCK = 256  # tokens of the vocabulary whose probabilities are first added up


class TransformersSampler:
    """Samples from `model` as it is at the time of the call; the trainer's own model needs no sync."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.ends = torch.tensor(sorted(end_of_turn_ids(tokenizer)))
        self.obstacle = sharing_obstacle(model)
        if self.obstacle:
            logging.getLogger(__name__).warning("prompts are copied for every rollout: %s", self.obstacle)

    def sync(self, adapter_folder: Path, version: int) -> None:
        """Nothing to do: the model sampled from is the one that is trained."""

    def sample(
        self, prompts: list[list[int]], seeds: list[list[int]], temperature: float, max_new_tokens: int
    ) -> list[list[Rollout]]:
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        groups: list[list[Rollout]] = [[] for _ in prompts]
        merged = max_new_tokens >= MERGING_PAYS
        with torch.inference_mode(), _evaluation(self.model), fast_linears(self.model, merged=merged):
            for batch in _batches(order, seeds):
                sampled = self._decode(
                    [prompts[i] for i in batch], [seeds[i] for i in batch], temperature, max_new_tokens
                )
                for index, group in zip(batch, sampled, strict=True):
                    groups[index] = group
        return groups

    def _decode(
        self, prompts: list[list[int]], seeds: list[list[int]], temperature: float, max_new_tokens: int
    ) -> list[list[Rollout]]:
        sizes = [len(group) for group in seeds]
        cache = (CopiedCache if self.obstacle else PrefixCache)(self.model, sizes)
        device = self.model.device
        draws = torch.stack([_draws(seed, max_new_tokens) for group in seeds for seed in group]).to(device)
        ends = self.ends.to(device)
        rows = torch.arange(len(draws), device=device)  # of those still going on, which rollout
        tokens = torch.zeros(len(draws), max_new_tokens, dtype=torch.long, device=device)
        logprobs = torch.zeros(len(draws), max_new_tokens, device=device)
        lengths = torch.full((len(draws),), max_new_tokens, device=device)
        finished = torch.zeros(len(draws), dtype=torch.bool, device=device)
        logits = cache.prefill(prompts)
        for step in range(max_new_tokens):
            token, logprob = _choose(logits, draws[rows, step], temperature)
            tokens[rows, step], logprobs[rows, step] = token, logprob
            ended = torch.isin(token, ends)
            if ended.any():
                finished[rows[ended]] = True
                lengths[rows[ended]] = step + 1
                going = (~ended).nonzero().squeeze(1)
                rows, token = rows[going], token[going]
                cache.keep(going)
            if step + 1 == max_new_tokens or not len(rows):
                break
            logits = cache.step(token)
        rollouts = iter(
            Rollout(line[:length], end, probability[:length])
            for line, probability, length, end in zip(
                tokens.tolist(), logprobs.tolist(), lengths.tolist(), finished.tolist(), strict=True
            )
        )
        return [[next(rollouts) for _ in range(size)] for size in sizes]


def _batches(order: Sequence[int], seeds: list[list[int]]) -> Iterator[list[int]]:
    """Whole groups, at most ROWS rows together (a larger group alone)."""
    batch: list[int] = []
    rows = 0
    for index in order:
        if batch and rows + len(seeds[index]) > ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(index)
        rows += len(seeds[index])
    if batch:
        yield batch


def _draws(seed: int, count: int) -> Tensor:
    """The uniform numbers of one rollout: of its seed alone, whatever else is sampled beside it."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _choose(logits: Tensor, draw: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Next token and its log-probability for each row, by inversion of the distribution function.

    The probabilities are added up in blocks first; the token is then found inside its block, in float64.

    Raises:
        WorkError: a logit is not a number.
    """
    logits = logits.float()
    if temperature == 0:
        best, token = logits.max(-1)
        return token, best - logits.logsumexp(-1)
    logits = logits / temperature
    maximum = logits.amax(-1, keepdim=True)
    weights = torch.nn.functional.pad(torch.exp(logits - maximum), (0, -logits.shape[1] % BLOCK))
    weights = weights.view(len(logits), -1, BLOCK)
    blocks = weights.sum(-1, dtype=torch.float64).cumsum(-1)
    total = blocks[:, -1:]
    if not torch.isfinite(total).all():
        raise WorkError("the model's logits are not finite: training diverged, or the weights are damaged")
    target = draw[:, None] * total
    block = torch.searchsorted(blocks, target, right=True).clamp(max=blocks.shape[1] - 1)
    before = torch.where(block > 0, blocks.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = weights[torch.arange(len(logits), device=logits.device), block[:, 0]].double().cumsum(-1)
    # A target past the last sum, by rounding, falls on the last token that has any probability.
    rest = torch.minimum(target - before, torch.nextafter(inside[:, -1:], torch.zeros_like(total)))
    token = block * BLOCK + torch.searchsorted(inside, rest, right=True)
    logprob = logits.gather(1, token) - maximum - total.log().float()
    return token[:, 0], logprob[:, 0]


@contextmanager
def _evaluation(model: Any) -> Iterator[None]:
    """Evaluation mode inside the block (no gradient checkpointing, no dropout)."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
