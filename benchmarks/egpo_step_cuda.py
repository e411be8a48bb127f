"""The update on a GPU: shared prompts against one padded sequence per rollout; run by `egpo_step --device cuda`.

The model has Qwen3-4B's shape, random bfloat16 weights and a LoRA adapter of rank 16; prompts and completions are
random tokens, so what is measured is the work, not learning. One update is forward, backward and AdamW on 4 groups;
both sides run it through the same learner. TRL's GRPOTrainer is not run here: it cannot be told what was sampled.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks._measure import matmul_rate, where_and_when

GROUPS = 4
COMPLETION = (80, 130)  # shortest and longest; about 105 in the mean
BUDGET = 16384


def run_on_gpu(quick: bool) -> dict[str, Any]:
    """All cells; prints a table."""
    from components.language_models.shared_prefix import check_sharing, score_groups, score_padded

    rate = matmul_rate("cuda", torch.bfloat16, 8192)
    figures: dict[str, Any] = {**where_and_when(), "matmul_tflops": round(rate / 1e12), "cells": []}
    print(f"{figures['machine']}, {figures['commit']}, {figures['date']}: bfloat16 product {rate / 1e12:.0f} TFLOP/s")
    model = random_qwen3_4b()
    groups = random_groups(1024, 8)
    mean = check_sharing(model, [shortened(group) for group in groups[:2]], 0.7, token_budget=BUDGET)
    print(f"shared and padded paths differ by {mean:.4f} nats in the mean", flush=True)
    header = f"{'':<28}{'padded':>22}{'shared':>22}{'faster':>8}{'memory':>8}{'MFU':>7}"
    print(header)
    cells = [(1024, 8)] if quick else list(itertools.product((1024, 2048, 4096), (8, 16)))
    for (prompt, size), kl in itertools.product(cells, (False, True)):
        groups = random_groups(prompt, size)
        result: dict[str, Any] = {"prompt": prompt, "group": size, "kl": kl}
        for name, score in (("padded", score_padded), ("shared", score_groups)):
            result |= {f"{name}_{key}": value for key, value in measured(model, score, groups, kl).items()}
        result["speedup"] = round(result["padded_s"] / result["shared_s"], 2)
        result["memory_ratio"] = round(result["shared_gb"] / result["padded_gb"], 2)
        result["mfu"] = round(operations(model, groups, kl) / rate / result["shared_s"], 3)
        figures["cells"].append(result)
        columns = "".join(f"{result[f'{n}_s']:>11.2f} s {result[f'{n}_gb']:>6.1f} GB" for n in ("padded", "shared"))
        print(
            f"P={prompt:<5} G={size:<3} KL {'on ' if kl else 'off':<10}{columns}{result['speedup']:>8.2f}"
            f"{result['memory_ratio']:>8.2f}{result['mfu']:>7.0%}",
            flush=True,
        )
    return figures


def random_qwen3_4b() -> Any:
    """A model of the shape of Qwen3-4B with an adapter; its weights are random."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from components.egpo_rl.update import recompute_activations
    from components.language_models.adapters import attach_adapter
    from components.settings import AdapterSettings

    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model = attach_adapter(model, AdapterSettings(), 0).to("cuda")
    recompute_activations(model)
    return model


def random_groups(prompt: int, size: int) -> list[Any]:
    """Groups of random tokens; half of the rollouts are right."""
    from components.egpo_rl.update import TrainingGroup
    from components.language_models.shared_prefix import Group

    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 151936, (count,), generator=generator).tolist()

    groups = []
    for _ in range(GROUPS):
        lengths = torch.randint(COMPLETION[0], COMPLETION[1] + 1, (size,), generator=generator).tolist()
        completions = [tokens(length) for length in lengths]
        masks = [[place < length // 2 for place in range(length)] for length in lengths]
        rewards = [float(index % 2) for index in range(size)]
        groups.append(TrainingGroup(Group(tokens(prompt), completions), rewards, masks))
    return groups


def shortened(group: Any) -> Any:
    """Two completions of a group: enough for the self-check."""
    return type(group.tokens)(group.tokens.prompt, group.tokens.completions[:2])


def measured(model: Any, score: Callable[..., Any], groups: list[Any], kl: bool) -> dict[str, float]:
    """Seconds of one update, the best of two after a warm-up, and the most memory it held."""
    from components.egpo_rl.distributed import World
    from components.egpo_rl.update import Learner, make_batch
    from components.settings import AlgorithmSettings, EgpoRlSettings, UpdateSettings

    world = World(device="cuda")
    config = EgpoRlSettings(
        dtype="bfloat16",
        algorithm=AlgorithmSettings(kl_coefficient=0.001 if kl else 0.0),
        update=UpdateSettings(unique_tokens_per_pass=BUDGET, learning_rate=1e-9),
    )
    learner = Learner(model, score, config, world)
    tokens = sum(len(completion) for group in groups for completion in group.tokens.completions)
    rollouts = sum(len(group.rewards) for group in groups)
    torch.cuda.reset_peak_memory_stats()
    best = math.inf
    for _ in range(3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        learner.learn(make_batch(groups, config, world, tokens, rollouts), 0)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return {"s": round(best, 3), "gb": round(torch.cuda.max_memory_allocated() / 2**30, 1)}


def operations(model: Any, groups: list[Any], kl: bool) -> float:
    """Operations of one update with every unique token once, recomputation of activations not counted."""
    base = model.get_base_model()
    config = base.config
    weights = sum(p.numel() for name, p in base.model.layers.named_parameters() if p.dim() == 2 and "lora_" not in name)
    head = config.vocab_size * config.hidden_size
    width = config.num_attention_heads * config.head_dim * config.num_hidden_layers
    total = 0.0
    for group in groups:
        prompt = len(group.tokens.prompt)
        lengths = [len(completion) for completion in group.tokens.completions]
        pairs = prompt**2 / 2 + sum(length * prompt + length**2 / 2 for length in lengths)
        forward = 2 * weights * (prompt + sum(lengths)) + 4 * pairs * width
        reference = forward + 2 * head * sum(lengths) if kl else 0.0
        total += (
            reference + forward + 2 * weights * (prompt + sum(lengths)) + 8 * pairs * width + 4 * head * sum(lengths)
        )
    return total
