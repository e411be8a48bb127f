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
    """Two CPU cores, 8 GB: the whole pipeline on SmolLM2-135M in about ten minutes, on small samples of everything."""
    return Profile(
        name="demo",
        settings={
            "data_refine.sample_size": 1500,
            "sft_warmup.steps": 30,
            "sft_warmup.batch_size": 4,
            "sft_warmup.micro_batch_size": 4,
            "sft_warmup.learning_rate": 1e-3,
            "sft_warmup.max_prompt_tokens": 384,
            "sft_warmup.max_turn_tokens": 128,
            "sft_warmup.checkpoint.every": 10,
            "egpo_rl.steps": 5,
            "egpo_rl.rollout.prompts_per_step": 4,
            "egpo_rl.update.learning_rate": 3e-5,  # 1e-4 unlearns the form of a call in five steps of real records
            "egpo_rl.update.warmup_steps": 1,
            "egpo_rl.rollout.max_prompt_tokens": 384,
            "egpo_rl.rollout.max_new_tokens": 128,  # as long as the turns that the warm-up teaches
            "egpo_rl.held_out": 4,
            "egpo_rl.checkpoint.every": 1,
            "bfcl_eval.sample_per_category": 3,
            "bfcl_eval.max_prompt_tokens": 1024,
            "bfcl_eval.max_new_tokens": 128,
            "bfcl_eval.batch_size": 8,
            "model_registration.model_name": "callforge-demo",
        },
    )


def tiny() -> Profile:
    """For tests: two steps of everything, sized for a random model of some thousand weights."""
    return Profile(
        name="tiny",
        settings={
            "data_refine.sample_size": 60,
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
    """Hyperparameters of EGPO v4 (2508.05118) on one node of eight GPUs. LoRA in place of full fine-tuning, and the
    warm-up is off, as in the paper."""
    return Profile(
        name="paper",
        settings=gpu8().settings
        | {
            "sft_warmup.steps": 0,
            "egpo_rl.steps": 410,
            "egpo_rl.rollout.prompts_per_step": 1024,
            "egpo_rl.rollout.group_size": 8,
            "egpo_rl.update.learning_rate": 1e-6,
            "egpo_rl.rollout.temperature": 0.7,
            "egpo_rl.algorithm.kl_coefficient": 0.001,
            "egpo_rl.algorithm.bonus_weight": 0.4,
            "egpo_rl.algorithm.bonus_cap": 2.0,
            "egpo_rl.rollout.max_new_tokens": 8192,
            "egpo_rl.update.unique_tokens_per_pass": 65536,
            "egpo_rl.checkpoint.every": 1,
        },
        resources=gpu8().resources,
    )


PROFILES: dict[str, Callable[[], Profile]] = {
    "demo": demo,
    "tiny": tiny,
    "gpu": gpu,
    "gpu8": gpu8,
    "paper": paper,
}
CLUSTER_PROFILES = ("gpu", "gpu8", "paper")
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
