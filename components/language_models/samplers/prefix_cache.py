"""Key/value caches of a decode batch of groups: every prompt stored, computed and read once.

`PrefixCache` splits attention as the update does (shared_attention.py): a row attends to its group's prompt, all rows
of the group in one product, and to its own tokens; the two are merged by log-sum-exp. All rows start together, so
their own parts are equally long and no mask is needed. `CopiedCache` is the plain way, for models that cannot share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from components.language_models.attention_kernels import attention
from components.language_models.shared_attention import Segments, use_shared_attention
from components.language_models.shared_prefix import model_parts, run_packed

PREFILL_TOKENS = 4096  # prompt tokens computed in one pass
GROWTH = 64  # steps by which the rows' own part grows


class PrefixCache:
    """Prompts of several groups and the tokens of their rows; rows are in the order of the groups."""

    def __init__(self, model: Any, sizes: list[int]) -> None:
        self.causal_model, self.backbone = model_parts(model)
        use_shared_attention(self.causal_model)
        self.sizes = sizes
        self.prompts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in sizes]  # [group][layer]: [1, heads, P, D] twice
        self.own: list[tuple[Tensor, Tensor]] = []  # [layer]: [rows, heads, room, D] twice
        self.length = 0  # tokens of each row in `own`, the running step's included
        self.positions = torch.empty(0)
        self.segments: Segments | None = None  # of the prompts, while they are computed
        self.filling = 0  # group the first of them belongs to

    def prefill(self, prompts: list[list[int]]) -> Tensor:
        """Logits of each row's first token, [rows, V]."""
        device = self.causal_model.device
        last = []
        index = 0
        while index < len(prompts):
            first, total = index, 0
            while index < len(prompts) and (index == first or total + len(prompts[index]) <= PREFILL_TOKENS):
                total += len(prompts[index])
                index += 1
            chunk = prompts[first:index]
            self.segments, self.filling = Segments.of([(len(prompt), []) for prompt in chunk], device), first
            hidden = self._forward(
                torch.tensor([token for prompt in chunk for token in prompt], device=device),
                torch.cat([torch.arange(len(prompt), device=device) for prompt in chunk]),
            )
            ends = torch.tensor([len(prompt) for prompt in chunk], device=device).cumsum(0) - 1
            last.append(hidden[ends])
        self.segments = None
        logits = self.causal_model.get_output_embeddings()(torch.cat(last))
        repeats = torch.tensor(self.sizes, device=device)
        self.positions = torch.tensor([len(prompt) for prompt in prompts], device=device).repeat_interleave(repeats)
        return logits.repeat_interleave(repeats, 0)

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row, [rows], and give the logits of the next, [rows, V]."""
        self.length += 1
        hidden = self._forward(tokens, self.positions)
        self.positions = self.positions + 1
        return self.causal_model.get_output_embeddings()(hidden)

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        bounds = torch.tensor([0, *self.sizes]).cumsum(0)
        owner = torch.bucketize(rows.cpu(), bounds[1:], right=True)
        counts = torch.bincount(owner, minlength=len(self.sizes)).tolist()
        self.prompts = [prompt for prompt, count in zip(self.prompts, counts, strict=True) if count]
        self.sizes = [count for count in counts if count]
        self.positions = self.positions[rows]
        self.own = [(key[rows], value[rows]) for key, value in self.own]

    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return run_packed(self.backbone, tokens, positions, self)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Called by every layer: query [1, heads, T, D] -> [1, heads, T, D]; T is prompt tokens, or one per row."""
        if self.segments is not None:
            for number, group in enumerate(self.segments.groups):
                states = key[:, :, group.prompt].contiguous(), value[:, :, group.prompt].contiguous()
                self.prompts[self.filling + number].append(states)
            return self.segments.attend(layer, query, key, value, scale)
        _, heads, rows, size = query.shape
        own_key, own_value = self._append(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
        folded = query[0].view(key.shape[1], -1, rows, size)  # [key heads, r, rows, D]
        own, own_lse = attention(folded.permute(2, 0, 1, 3), own_key, own_value, scale)  # [rows, key heads, r, D]
        cross, cross_lse = torch.empty_like(own), torch.empty_like(own_lse)
        start = 0
        for group, count in enumerate(self.sizes):
            part = slice(start, start := start + count)
            queries = folded[:, :, part].reshape(1, key.shape[1], -1, size)
            seen, seen_lse = attention(queries, *self.prompts[group][layer], scale)
            cross[part] = seen.view(key.shape[1], -1, count, size).permute(2, 0, 1, 3)
            cross_lse[part] = seen_lse.reshape(key.shape[1], -1, count).permute(2, 0, 1)
        share = torch.sigmoid(cross_lse - own_lse)[..., None].to(own.dtype)  # of the prompt in the whole softmax
        return torch.lerp(own, cross, share).reshape(rows, heads, size).transpose(0, 1)[None]

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, heads, D] each, stored behind what the rows have; gives all of it, [rows, heads, length, D]."""
        if layer == len(self.own):
            empty = key.new_empty(*key.shape[:2], 0, key.shape[2])
            self.own.append((empty, empty))
        if self.own[layer][0].shape[2] < self.length:
            room = key.new_empty(*key.shape[:2], GROWTH, key.shape[2])
            self.own[layer] = tuple(torch.cat([states, room], 2) for states in self.own[layer])
        for states, new in zip(self.own[layer], (key, value), strict=True):
            states[:, :, self.length - 1] = new
        keys, values = self.own[layer]
        return keys[:, :, : self.length], values[:, :, : self.length]


class CopiedCache:
    """transformers' own cache: every prompt computed once, then copied for each row; groups step one by one."""

    def __init__(self, model: Any, sizes: list[int]) -> None:
        self.model, _ = model_parts(model)
        self.sizes = sizes
        self.caches: list[Any] = []

    def prefill(self, prompts: list[list[int]]) -> Tensor:
        """As PrefixCache.prefill."""
        logits = []
        for prompt, size in zip(prompts, self.sizes, strict=True):
            output = self.model(
                input_ids=torch.tensor([prompt], device=self.model.device), use_cache=True, logits_to_keep=1
            )
            output.past_key_values.batch_repeat_interleave(size)
            self.caches.append(output.past_key_values)
            logits.append(output.logits[:, -1].expand(size, -1))
        return torch.cat(logits)

    def step(self, tokens: Tensor) -> Tensor:
        """As PrefixCache.step."""
        parts = tokens.split(self.sizes)
        return torch.cat(
            [
                self.model(input_ids=part[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
                for part, cache in zip(parts, self.caches, strict=True)
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
