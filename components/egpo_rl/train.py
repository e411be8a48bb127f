"""The EGPO stage: rollouts in groups, rewards, one shared-prefix pass, AdamW on the adapter or all weights.

`run` loads the policy and the prompts, hands them to loop.py and saves what came of it. Formulas are in algorithms.py,
the pass in update.py, rewards in rewards.py, what is printed in step_log.py, models in parts in sharding.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from components.egpo_rl.checkpoint import Checkpoints
from components.egpo_rl.distributed import World, open_world, with_followers
from components.egpo_rl.interruption import Interruption, StoppedError
from components.egpo_rl.loop import Training
from components.egpo_rl.prompts import PromptOrder, read_training_records
from components.egpo_rl.report import write_training_report
from components.egpo_rl.samplers import PolicySampler
from components.egpo_rl.sharding import WholeCopy, shard_model
from components.egpo_rl.update import recompute_activations
from components.errors import InputError, WorkError
from components.function_calls.prompt import PROMPT_VERSION
from components.language_models.base_models import ResolvedModel, resolve_model
from components.language_models.model_card import ModelCard, read_card
from components.language_models.model_directory import (
    LoadedModel,
    load_adapter,
    load_base,
    load_merged,
    save_adapter,
    save_model,
)
from components.sections import deciding_settings
from components.services.events import say, warn
from components.settings import EgpoRlSettings
from components.stages.identity import checkpoint_key
from components.stages.outputs import Outputs
from components.stages.publishing import stage_uri


def run(config: EgpoRlSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Train `inputs["model"]`, its adapter or all its weights, on the records of `inputs["records"]`.

    Writes model/, samples.jsonl, pass_rates.json and report.html into the stage folder; goes on from the newest
    checkpoint of the same settings and inputs, here or in S3. On several GPUs it starts a process for each; under
    torchrun each process calls it in the same way. Only the first one writes.

    Returns:
        Held-out reward before and after, its rise and the standard error, and the mean reward of the last steps.

    Raises:
        InputError: no usable record or model, a prompt limit that leaves nothing, or more processes than GPUs.
        WorkError: training diverged, or the process was told to stop (SIGTERM) and has written a checkpoint.
    """
    devices = torch.cuda.device_count()
    if config.processes > devices > 0:
        raise InputError(f"egpo_rl.processes: {config.processes} is more than the {devices} GPUs here; set 0 for all")
    processes = config.processes or max(1, devices)
    alone = processes == 1 or "WORLD_SIZE" in os.environ
    try:
        with (
            Interruption() as interruption,
            nullcontext() if alone else with_followers(processes, follower_command(config, inputs, outputs)),
            open_world() as world,
        ):
            return _run(config, inputs, outputs, world, interruption)
    except StoppedError:
        raise WorkError(
            "told to stop (SIGTERM) before or after its steps; start the same run again to go on from the "
            "newest checkpoint"
        ) from None


def follower_command(config: EgpoRlSettings, inputs: Mapping[str, Path], outputs: Outputs) -> list[str]:
    """What starts another process of this run (follower.py)."""
    paths = {name: str(path) for name, path in inputs.items()}
    settings = config.model_dump(mode="json")
    values = {"stage": outputs.stage.name, "settings": settings, "inputs": paths, "folder": str(outputs.folder)}
    return [sys.executable, "-m", "components.egpo_rl.follower", json.dumps(values)]


def _run(
    config: EgpoRlSettings, inputs: Mapping[str, Path], outputs: Outputs, world: World, interruption: Interruption
) -> dict[str, float]:
    records = read_training_records(inputs["records"])
    source = resolve_model(inputs["model"])
    card = read_card(source.path)
    sharded = config.shard_model and world.size > 1
    if config.shard_model and not sharded:
        warn("shard_model has no effect: there is one process (see processes)")
    loaded = _load_policy(config, source, "cpu" if sharded else world.device)
    if config.update.gradient_checkpointing:
        recompute_activations(loaded.model)
    sampled = loaded
    gathered: Callable[[], AbstractContextManager[None]] = nullcontext
    if sharded:
        sampled, gathered = _shard(config, loaded, world)
    limit, why = _longest_prompt(config, loaded)
    order = PromptOrder(records, loaded.tokenizer, limit, config.held_out, config.seed, config.rollout.retire_solved)
    if world.leads:
        say(
            f"{len(order.training):,} records to train on and {len(order.held_out):,} held out to watch; those with a "
            f"prompt over {limit:,} tokens are passed over when their turn comes ({why})"
        )
        if order.refused:
            warn(f"{len(order.refused)} prompts set aside: the chat template refuses the order of their roles")
    settings_hash = checkpoint_key(outputs.stage, config, outputs.input_digests)
    remote = ""
    if outputs.run.artifact_root and world.leads:
        remote = f"{stage_uri(outputs.run, outputs.stage.name)}/checkpoints"
    folder = outputs.checkpoints / "adapters"
    sampler = PolicySampler(config, sampled, world, folder, gathered)
    with Checkpoints(outputs.checkpoints, remote, config.checkpoint.keep) as checkpoints:
        training = Training(config, world, loaded, order, outputs, sampler, checkpoints, interruption, settings_hash)
        held_out = training.run()
    with gathered():
        if world.leads:
            made = ModelCard(
                stage=outputs.stage.name,
                base_model=card.base_model,
                prompt_version=PROMPT_VERSION,
                parents=dict(outputs.input_digests),
                config=deciding_settings(config),
            )
            if config.trained_weights == "adapter":
                save_adapter(sampled.model, outputs.folder / "model", made)
            else:
                save_model(sampled, outputs.folder / "model", made)
    if world.leads:
        training.write_tables()
        return write_training_report(outputs.folder, config, held_out)
    return held_out


def _load_policy(config: EgpoRlSettings, source: ResolvedModel, device: str) -> LoadedModel:
    """What is trained, on `device`: an adapter on its frozen base, or one model in float32."""
    if config.trained_weights == "adapter":
        if source.base is None:
            raise InputError(
                f"egpo_rl.trained_weights: {source.path} is a whole model, without an adapter to train; set "
                "egpo_rl.trained_weights=all, or give the folder of a warm-up"
            )
        loaded = load_adapter(load_base(source.base, config.dtype, device), source, trainable=True)
    else:
        loaded = load_merged(source, device)
        loaded.model.requires_grad_(True)
    loaded.model.eval()  # no dropout anywhere; gradients flow all the same
    return loaded


def _shard(
    config: EgpoRlSettings, loaded: LoadedModel, world: World
) -> tuple[LoadedModel, Callable[[], AbstractContextManager[None]]]:
    """Split the model over the processes. Gives what is sampled from and saved, and what puts its weights there."""
    if config.rollout.sampler != "transformers":  # it has a base of its own and takes the adapter, which is whole
        shard_model(loaded.model, world.device, config.dtype)
        return loaded, nullcontext
    whole = WholeCopy(loaded.model, world.device)
    shard_model(loaded.model, world.device, config.dtype)
    return replace(loaded, model=whole.model), partial(whole.filled, loaded.model)


def _longest_prompt(config: EgpoRlSettings, loaded: LoadedModel) -> tuple[int, str]:
    """Longest prompt that may be trained on, and what sets the limit."""
    limits = [(config.rollout.max_prompt_tokens, "max_prompt_tokens")]
    context = getattr(loaded.model.config, "max_position_embeddings", None)
    if context:
        limits.append((context - config.rollout.max_new_tokens, "the model's context - max_new_tokens"))
    limit, why = min(limits)
    if limit < 1:
        raise InputError(
            f"egpo_rl.rollout.max_new_tokens={config.rollout.max_new_tokens}: no room is left for a prompt ({why})"
        )
    return limit, why
