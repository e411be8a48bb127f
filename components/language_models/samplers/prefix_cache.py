"""Key/value caches of a decode batch: every prompt stored, computed and read once, groups joining as others finish.

`PrefixCache` splits attention as the update does (shared_attention.py): a row attends to its group's prompt, all rows
of the group in one product, and to its own tokens; the two are merged by log-sum-exp. Groups that joined together form
a cohort: their rows' own parts are equally long, so no mask is needed. `CopiedCache` is the plain way, for models that
cannot share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from components.language_models.attention_kernels import attention
from components.language_models.shared_attention import Segments, use_shared_attention
from components.language_models.shared_prefix import model_parts, run_packed

PREFILL_TOKENS = 4096  # prompt tokens computed in one pass
GROWTH = 64  # steps by which the rows' own part grows


@dataclass
class _Cohort:
    """Groups that joined together."""

    sizes: list[int]  # rows of each group
    prompts: list[list[tuple[Tensor, Tensor]]]  # [group][layer]: keys and values, [1, key heads, P, D]
    own: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # [layer]: [rows, key heads, room, D]
    length: int = 0  # tokens of each row in `own`, the running step's included

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        owner = torch.bucketize(rows.cpu(), torch.tensor(self.sizes).cumsum(0), right=True)
        counts = torch.bincount(owner, minlength=len(self.sizes)).tolist()
        self.prompts = [prompt for prompt, count in zip(self.prompts, counts, strict=True) if count]
        self.sizes = [count for count in counts if count]
        self.own = [(keys[rows], values[rows]) for keys, values in self.own]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store one token of each row, [rows, key heads, D]; gives all of them, [rows, key heads, length, D]."""
        if layer == len(self.own):
            empty = key.new_empty(*key.shape[:2], 0, key.shape[2])
            self.own.append((empty, empty))
        keys, values = self.own[layer]
        if keys.shape[2] < self.length:
            room = key.new_empty(*key.shape[:2], GROWTH, key.shape[2])
            keys, values = self.own[layer] = torch.cat([keys, room], 2), torch.cat([values, room], 2)
        keys[:, :, self.length - 1], values[:, :, self.length - 1] = key, value
        return keys[:, :, : self.length], values[:, :, : self.length]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [heads, rows, D], key and value [key heads, rows, D] -> [rows, heads, D]."""
        heads, rows, size = query.shape
        keys, values = self.append(layer, key.transpose(0, 1), value.transpose(0, 1))
        folded = query.unflatten(0, (key.shape[0], -1))  # [key heads, r, rows, D]
        own, own_lse = attention(folded.permute(2, 0, 1, 3), keys, values, scale)  # [rows, key heads, r, D]
        cross, cross_lse = torch.empty_like(own), torch.empty_like(own_lse)
        start = 0
        for prompt, count in zip(self.prompts, self.sizes, strict=True):
            part = slice(start, start := start + count)
            queries = folded[:, :, part].reshape(1, key.shape[0], -1, size)
            seen, seen_lse = attention(queries, *prompt[layer], scale=scale)
            cross[part] = seen.view(key.shape[0], -1, count, size).permute(2, 0, 1, 3)
            cross_lse[part] = seen_lse.reshape(key.shape[0], -1, count).permute(2, 0, 1)
        share = torch.sigmoid(cross_lse - own_lse)[..., None].to(own.dtype)  # of the prompt in the whole softmax
        return torch.lerp(own, cross, share).reshape(rows, heads, size)


class PrefixCache:
    """Prompts of several groups and the tokens of their rows; rows are in the order they joined."""

    def __init__(self, model: Any) -> None:
        self.causal_model, self.backbone = model_parts(model)
        use_shared_attention(self.causal_model)
        self.cohorts: list[_Cohort] = []
        self.positions = torch.zeros(0, dtype=torch.long, device=self.causal_model.device)  # of each row's next token
        self.filling: tuple[Segments, list[list[tuple[Tensor, Tensor]]]] | None = None

    def join(self, prompts: list[list[int]], sizes: list[int]) -> Tensor:
        """Compute the prompts of new groups of these sizes; logits of each new row's first token, [new rows, V]."""
        device = self.causal_model.device
        lengths = [len(prompt) for prompt in prompts]
        stored: list[list[tuple[Tensor, Tensor]]] = [[] for _ in prompts]
        last = []
        end = 0
        while end < len(prompts):
            first, total = end, 0
            while end < len(prompts) and (end == first or total + lengths[end] <= PREFILL_TOKENS):
                total += lengths[end]
                end += 1
            chunk = prompts[first:end]
            self.filling = Segments.of([(length, []) for length in lengths[first:end]], device), stored[first:end]
            hidden = run_packed(
                self.backbone,
                torch.tensor([token for prompt in chunk for token in prompt], device=device),
                torch.cat([torch.arange(length, device=device) for length in lengths[first:end]]),
                self,
            )
            last.append(hidden[torch.tensor(lengths[first:end], device=device).cumsum(0) - 1])
        self.filling = None
        self.cohorts.append(_Cohort(sizes, stored))
        repeats = torch.tensor(sizes, device=device)
        starts = torch.tensor(lengths, device=device).repeat_interleave(repeats)
        self.positions = torch.cat([self.positions, starts])
        return self.causal_model.get_output_embeddings()(torch.cat(last)).repeat_interleave(repeats, 0)

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row, [rows], and give the logits of the next, [rows, V]."""
        for cohort in self.cohorts:
            cohort.length += 1
        hidden = run_packed(self.backbone, tokens, self.positions, self)
        self.positions = self.positions + 1
        return self.causal_model.get_output_embeddings()(hidden)

    def keep(self, rows: Tensor) -> None:
        """Only these rows, in rising order, go on."""
        start = 0
        for cohort in self.cohorts:
            size = sum(cohort.sizes)
            inside = rows[(rows >= start) & (rows < start + size)] - start
            if len(inside) < size:
                cohort.keep(inside)
            start += size
        self.cohorts = [cohort for cohort in self.cohorts if cohort.sizes]
        self.positions = self.positions[rows]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Called by every layer: query [1, heads, T, D] -> the same; T counts prompt tokens, or one for each row."""
        if self.filling is not None:
            segments, stored = self.filling
            for group, kept in zip(segments.groups, stored, strict=True):
                kept.append((key[:, :, group.prompt].contiguous(), value[:, :, group.prompt].contiguous()))
            return segments.attend(layer, query, key, value, scale)
        outs = []
        start = 0
        for cohort in self.cohorts:
            part = slice(start, start := start + sum(cohort.sizes))
            outs.append(cohort.attend(layer, query[0, :, part], key[0, :, part], value[0, :, part], scale))
        return torch.cat(outs).transpose(0, 1)[None]


class CopiedCache:
    """transformers' own cache: every prompt computed once, then copied for each row; groups step one by one."""

    def __init__(self, model: Any) -> None:
        self.model, _ = model_parts(model)
        self.sizes: list[int] = []
        self.caches: list[Any] = []

    def join(self, prompts: list[list[int]], sizes: list[int]) -> Tensor:
        """As PrefixCache.join."""
        logits = []
        for prompt, size in zip(prompts, sizes, strict=True):
            output = self.model(
                input_ids=torch.tensor([prompt], device=self.model.device), use_cache=True, logits_to_keep=1
            )
            output.past_key_values.batch_repeat_interleave(size)
            self.caches.append(output.past_key_values)
            self.sizes.append(size)
            logits.append(output.logits[:, -1].expand(size, -1))
        return torch.cat(logits)

    def step(self, tokens: Tensor) -> Tensor:
        """As PrefixCache.step."""
        parts = zip(tokens.split(self.sizes), self.caches, strict=True)
        return torch.cat(
            [
                self.model(input_ids=part[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
                for part, cache in parts
            ]
        )

    def keep(self, rows: Tensor) -> None:
        """As PrefixCache.keep."""
        caches, sizes, start = [], [], 0
        for cache, size in zip(self.caches, self.sizes, strict=True):
            inside = rows[(rows >= start) & (rows < start + size)] - start
            if len(inside):
                if len(inside) < size:
                    cache.batch_select_indices(inside)
                caches.append(cache)
                sizes.append(len(inside))
            start += size
        self.caches, self.sizes = caches, sizes
