"""Sampling from a transformers model in this process: prompts computed once, groups decoded together.

Groups of several prompts form one batch; every decode step reads the weights once for all of them, and a group's
prompt keys and values once for all its rows (prefix_cache.py). Rows that end leave the batch, and waiting groups join
it. Nothing is compiled and no logits matrix of a prompt is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.errors import WorkError
from components.language_models.fast_linear import fast_linears
from components.language_models.samplers import Rollout
from components.language_models.samplers.prefix_cache import CopiedCache, PrefixCache
from components.language_models.shared_prefix import sharing_obstacle
from components.language_models.tokens import end_of_turn_ids
from components.services.events import warn

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
            warn(f"prompts are copied for every rollout: {self.obstacle}")

    def sync(self, adapter_folder: Path, version: int) -> None:
        """Nothing to do: the model sampled from is the one that is trained."""

    def sample(
        self, prompts: list[list[int]], seeds: list[list[int]], temperature: float, max_new_tokens: int
    ) -> list[list[Rollout]]:
        """As Sampler.sample.

        Raises:
            WorkError: the model's logits are not finite.
        """
        if not prompts:
            return []
        merged = max_new_tokens >= MERGING_PAYS
        with torch.inference_mode(), _evaluation(self.model), fast_linears(self.model, merged=merged):
            rollouts = iter(self._decode(prompts, seeds, temperature, max_new_tokens))
        return [[next(rollouts) for _ in group] for group in seeds]

    def _decode(
        self, prompts: list[list[int]], seeds: list[list[int]], temperature: float, max_new_tokens: int
    ) -> list[Rollout]:
        device = self.model.device
        cache = (CopiedCache if self.obstacle else PrefixCache)(self.model)
        ends = self.ends.to(device)
        draws = torch.stack([_draws(seed, max_new_tokens) for group in seeds for seed in group]).to(device)
        tokens = torch.zeros(len(draws), max_new_tokens, dtype=torch.long, device=device)
        logprobs = torch.zeros(len(draws), max_new_tokens, device=device)
        lengths = torch.zeros(len(draws), dtype=torch.long, device=device)
        finished = torch.zeros(len(draws), dtype=torch.bool, device=device)
        rows = torch.zeros(0, dtype=torch.long, device=device)  # which rollout each row of the batch is
        logits: list[Tensor] = []  # of the next token: rows that go on, rows that join
        joined = 0  # groups so far
        started = 0  # rollouts so far
        while len(rows) or joined < len(prompts):
            batch = _next_groups([len(group) for group in seeds[joined:]], len(rows))
            if batch:
                logits.append(cache.join(prompts[joined : joined + len(batch)], batch))
                rows = torch.cat([rows, torch.arange(started, started + sum(batch), device=device)])
                joined, started = joined + len(batch), started + sum(batch)
            steps = lengths[rows]
            token, logprob = _choose(torch.cat(logits), draws[rows, steps], temperature)
            tokens[rows, steps], logprobs[rows, steps] = token, logprob
            lengths[rows] = steps + 1
            finished[rows] = torch.isin(token, ends)
            stays = (~finished[rows] & (steps + 1 < max_new_tokens)).nonzero().squeeze(1)
            if len(stays) < len(rows):
                rows, token = rows[stays], token[stays]
                cache.keep(stays)
            logits = [cache.step(token)] if len(rows) else []
        return [
            Rollout(line[:length], end, probability[:length])
            for line, probability, length, end in zip(
                tokens.tolist(), logprobs.tolist(), lengths.tolist(), finished.tolist(), strict=True
            )
        ]


def _next_groups(sizes: list[int], rows: int) -> list[int]:
    """Sizes of the groups that join now: enough to fill the batch, once a quarter of it is free."""
    if rows > ROWS * 3 // 4:
        return []
    batch: list[int] = []
    for size in sizes:
        if rows and rows + size > ROWS:  # a group larger than the batch goes alone
            break
        batch.append(size)
        rows += size
    return batch


def _draws(seed: int, count: int) -> Tensor:
    """The uniform numbers of one rollout: from its seed only, whatever else is sampled beside it."""
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
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
