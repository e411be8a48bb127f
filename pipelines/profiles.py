"""Named recipes: complete settings for one kind of machine, and the resources each step asks a cluster for.

A profile changes defaults of components/settings.py and nothing else. Users change single settings of it by
`--set section.name=value` or the pipeline's `settings` parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from components.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one step asks of a node."""

    cpu: str
    memory: str
    gpus: int = 0
    gpu_type: str = "nvidia.com/gpu"
    shared_memory: str = ""
    """Size of /dev/shm; the default of 64 MB breaks data loaders and NCCL. Counts against `memory`."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A recipe: `settings` as a layer for resolve_settings, `resources` by step (none for a local run)."""

    name: str
    settings: dict[str, Any]
    resources: dict[str, Resources] = field(default_factory=dict)


def demo() -> Profile:
    """Two CPU cores, 8 GB: the whole pipeline on SmolLM2-135M in about twelve minutes, a small sample of everything."""
    return Profile(
        name="demo",
        settings={
            "data_refine.data": "sample/home",
            "data_refine.sample_size": 1500,
            "data_refine.held_out_share": 0.05,
            "sft_warmup.steps": 60,  # small batches: of the same minutes, many steps teach more than large ones
            "sft_warmup.batch_size": 2,
            "sft_warmup.micro_batch_size": 2,
            "sft_warmup.learning_rate": 1e-3,
            "sft_warmup.max_prompt_tokens": 384,
            "sft_warmup.max_turn_tokens": 128,
            "sft_warmup.checkpoint.every": 15,
            "egpo_rl.steps": 6,
            "egpo_rl.rollout.prompts_per_step": 8,
            "egpo_rl.rollout.temperature": 1.0,  # at 0.7 half of the groups had no right answer, and taught nothing
            "egpo_rl.update.learning_rate": 1e-4,
            "egpo_rl.update.warmup_steps": 1,
            "egpo_rl.update.unique_tokens_per_pass": 3072,  # a step in one pass takes more than 8 GB
            "egpo_rl.rollout.max_prompt_tokens": 384,
            "egpo_rl.rollout.max_new_tokens": 96,
            "egpo_rl.held_out": 16,
            "egpo_rl.checkpoint.every": 1,
            "bfcl_eval.own_records": 32,
            "bfcl_eval.categories": ["simple_python", "multiple", "irrelevance"],  # a taste
            "bfcl_eval.sample_per_category": 2,
            "bfcl_eval.max_prompt_tokens": 1024,
            "bfcl_eval.max_new_tokens": 96,
            "bfcl_eval.batch_size": 32,
            "model_registration.model_name": "callforge-demo",
        },
    )


def tiny() -> Profile:
    """For tests: two steps of everything, sized for a random model of some thousand weights."""
    return Profile(
        name="tiny",
        settings={
            "data_refine.sample_size": 60,
            "data_refine.held_out_share": 0.1,
            "sft_warmup.steps": 3,
            "sft_warmup.batch_size": 2,
            "sft_warmup.micro_batch_size": 2,
            "sft_warmup.checkpoint.every": 1,
            "sft_warmup.adapter.rank": 2,
            "egpo_rl.steps": 2,
            "egpo_rl.rollout.prompts_per_step": 2,
            "egpo_rl.rollout.group_size": 2,
            "egpo_rl.rollout.max_new_tokens": 8,
            "egpo_rl.held_out": 2,
            "egpo_rl.checkpoint.every": 1,
            "bfcl_eval.categories": ["simple_python", "irrelevance"],
            "bfcl_eval.sample_per_category": 2,
            "bfcl_eval.max_new_tokens": 8,
            "model_registration.model_name": "callforge-tiny",
            "model_registration.save_dtype": "float32",
        },
    )


def gpu() -> Profile:
    """One GPU of 80 GB and a model of about 4 billion weights: LoRA, vLLM in the same process for rollouts."""
    return Profile(
        name="gpu",
        settings={
            "sft_warmup.base_model": "Qwen/Qwen3-4B-Instruct-2507",
            "sft_warmup.dtype": "bfloat16",
            "sft_warmup.micro_batch_size": 8,
            "egpo_rl.dtype": "bfloat16",
            "egpo_rl.rollout.sampler": "vllm",
            "egpo_rl.update.unique_tokens_per_pass": 32768,
            "egpo_rl.update.gradient_checkpointing": True,
            "data_refine.held_out_share": 0.02,
            "bfcl_eval.dtype": "bfloat16",
            "bfcl_eval.batch_size": 256,
        },
        resources=_resources(gpus=1, cpu="8", memory="96Gi", shared_memory="16Gi"),
    )


def gpu8() -> Profile:
    """One node of eight 80 GB GPUs: a process for each, one all-reduce of the adapter's gradients a step."""
    return Profile(
        name="gpu8",
        settings=gpu().settings | {"egpo_rl.rollout.prompts_per_step": 256, "sft_warmup.batch_size": 128},
        resources=_resources(gpus=8, cpu="80", memory="768Gi", shared_memory="64Gi"),
    )


def paper() -> Profile:
    """EGPO v4 (2508.05118) with its own hyperparameters on one node of eight 80 GB GPUs: full fine-tuning, no warm-up.

    Memory of a GPU, in GB, for 4.0 billion weights split over eight: weights, gradients, Adam's moments and the KL's
    reference in float32 are 20 bytes a weight, 10. The rest depends on what is done. An update adds at most 55: the
    logits of a pass, 18 bytes times a vocabulary of 152,000 times at most 16,384 completion tokens, 45; inputs of the
    36 layers, kept for recomputation, 6; the gathered head and its gradient, 3. Sampling adds 24 for a whole copy (6
    bytes a weight), and 0.15 MB a token for keys and values: 64 rollouts at a time, whose completions may average 3,600
    tokens before the memory is full (the paper reports about 105).

    Host: 768 GB, of which loading takes half. Local disk: a checkpoint is 48 GB (12 bytes a weight), and a second one
    is there while it is written.
    """
    settings = gpu8().settings | {
        "sft_warmup.steps": 0,
        "egpo_rl.steps": 410,
        "egpo_rl.trained_weights": "all",
        "egpo_rl.shard_model": True,
        "egpo_rl.algorithm.bonus_weight": 0.4,
        "egpo_rl.algorithm.bonus_cap": 2.0,
        "egpo_rl.algorithm.kl_coefficient": 0.001,
        "egpo_rl.rollout.sampler": "transformers",  # vLLM takes adapters only
        "egpo_rl.rollout.prompts_per_step": 1024,
        "egpo_rl.rollout.group_size": 8,
        "egpo_rl.rollout.temperature": 0.7,
        "egpo_rl.rollout.max_new_tokens": 8192,
        "egpo_rl.update.learning_rate": 1e-6,
        "egpo_rl.update.unique_tokens_per_pass": 16384,
        "egpo_rl.checkpoint.every": 10,
        "egpo_rl.checkpoint.keep": 1,  # the newest is in S3 as well
    }
    return Profile(name="paper", settings=settings, resources=gpu8().resources)


def paper_lora() -> Profile:
    """As `paper`, but training a LoRA adapter, at ten times the paper's learning rate.

    LoRA at the paper's 1e-6 moves the weights about eleven times less than the full fine-tuning it was chosen for, and
    LoRA's best rate is about ten times that of full fine-tuning whatever the model and rank ("LoRA Without Regret",
    Schulman et al., 2025). Rollouts then come from vLLM, and each GPU holds the whole model.
    """
    settings = paper().settings | {
        "egpo_rl.trained_weights": "adapter",
        "egpo_rl.shard_model": False,
        "egpo_rl.rollout.sampler": "vllm",
        "egpo_rl.update.learning_rate": 1e-5,
        "egpo_rl.update.unique_tokens_per_pass": 65536,
        "egpo_rl.checkpoint.every": 1,
        "egpo_rl.checkpoint.keep": 2,
    }
    return Profile(name="paper-lora", settings=settings, resources=gpu8().resources)


PROFILES: dict[str, Callable[[], Profile]] = {
    "demo": demo,
    "tiny": tiny,
    "gpu": gpu,
    "gpu8": gpu8,
    "paper": paper,
    "paper-lora": paper_lora,
}
CLUSTER_PROFILES = ("gpu", "gpu8", "paper", "paper-lora")
DEFAULT_CLUSTER_PROFILE = "gpu"


def find_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PROFILES:
        raise InputError(f"profile {name}: there is no such profile; known are {', '.join(PROFILES)}")
    return PROFILES[name]()


# Nodes have 12 cores a GPU and keep some: what a step asks must leave room.
def _resources(*, gpus: int, cpu: str, memory: str, shared_memory: str) -> dict[str, Resources]:
    short = Resources(cpu="4", memory="16Gi")
    merge = Resources(cpu="4", memory="48Gi")  # float32 weights of 4 billion parameters, and their copy
    one_gpu = Resources(cpu="8", memory="96Gi", gpus=1, shared_memory="16Gi")
    many = Resources(cpu=cpu, memory=memory, gpus=gpus, shared_memory=shared_memory)
    return {
        "preflight": short,
        "promotion": short,
        "data_refine": short,
        "sft_warmup": one_gpu,
        "egpo_rl": many,
        "bfcl_eval": one_gpu,
        "model_registration": merge,
    }
