"""The sampler of a run, and how the trained adapter reaches it.

The transformers sampler shares the trained model, or has a copy of a sharded one that is filled while it samples. vLLM
gets the adapter as a new directory before every step. In process, each process has its own engine; only
the leader talks to servers, for all, so that there is one set of adapters on them and one place where it can fail.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from components.egpo_rl.distributed import World
from components.language_models.adapters import adapter_digest
from components.language_models.model_directory import LoadedModel
from components.language_models.samplers import Rollout, Sampler
from components.language_models.samplers.factory import longest_sequence, open_sampler
from components.services.events import say
from components.settings import EgpoRlSettings


class PolicySampler:
    """Samples from the policy as it is trained; `update` passes the adapter on where the engine is another one."""

    def __init__(
        self,
        config: EgpoRlSettings,
        loaded: LoadedModel,
        world: World,
        folder: Path,
        gathered: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`folder` is seen by the servers under the same path.

        Within `gathered` the model that is sampled from has its weights.

        Raises:
            InputError: no server is named, or it serves another model.
        """
        self.world, self.model, self.folder = world, loaded.model, folder / f"rank{world.rank}"
        self.gathered = gathered
        # A frozen base has the type it is computed in; weights that are all trained are float32.
        self.casts = config.trained_weights == "all" and config.dtype == "bfloat16"
        shutil.rmtree(self.folder, ignore_errors=True)  # what a killed run left
        self.shares_model = config.rollout.sampler == "transformers"
        self.leader_asks = config.rollout.sampler == "vllm_server"
        self.engine: Sampler | None = None
        if world.leads or not self.leader_asks:
            rollout = config.rollout
            self.engine = open_sampler(
                rollout.sampler,
                model=loaded.model,
                tokenizer=loaded.tokenizer,
                base=loaded.base,
                folder=self.folder,
                urls=rollout.sampler_urls,
                rank=loaded.model.peft_config["default"].r if config.trained_weights == "adapter" else None,
                dtype=config.dtype,
                max_tokens=longest_sequence(loaded.model.config, rollout.max_prompt_tokens, rollout.max_new_tokens),
                seed=config.seed,
            )

    def update(self, version: int) -> None:
        """Let the engine sample from the adapter as it is now."""
        if self.shares_model or self.engine is None:
            return
        staging = self.folder / "staging"
        self.model.save_pretrained(staging, safe_serialization=True, save_embedding_layers=False)
        self.engine.sync(staging, version)
        shutil.rmtree(staging)
        if self.world.leads:
            say(f"the sampler has adapter {adapter_digest(self.model)[:12]} (version {version})")

    def sample(
        self, prompts: list[list[int]], seeds: list[list[int]], temperature: float, max_new_tokens: int
    ) -> list[list[Rollout]]:
        """As Sampler.sample; every process calls it, with prompts of its own or none."""
        if not self.leader_asks:
            assert self.engine is not None
            kind = torch.device(self.world.device).type
            with self.gathered(), torch.autocast(kind, torch.bfloat16, enabled=self.casts):
                return self.engine.sample(prompts, seeds, temperature, max_new_tokens) if prompts else []
        wanted = self.world.gather(list(zip(prompts, seeds, strict=True)))
        groups: list[list[Rollout]] = []
        if self.engine is not None and wanted:
            asked = [prompt for prompt, _ in wanted], [group for _, group in wanted]
            groups = self.engine.sample(*asked, temperature, max_new_tokens)
        return list(self.world.share(self.world.from_leader(groups)))
