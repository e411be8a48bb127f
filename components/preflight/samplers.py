"""Checks of what generates completions, for rollouts and for the evaluation alike: vLLM is there and can follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib.util import find_spec

from components.errors import InputError
from components.language_models.samplers.published import RANKS
from components.language_models.samplers.vllm_server import MODELS, find_base_model
from components.services.web import NoAnswerError, ask
from components.settings import BfclEvalSettings, RolloutSettings, Settings, SftWarmupSettings


def sampler_checks(settings: Settings, sections: Collection[str], here: bool) -> Iterator[Callable[[], None]]:
    """The checks of the samplers in these sections of the settings; `here`: in a run on this machine."""
    # A lone stage takes base model and adapter from its input, and compares them with the servers itself.
    warmup = settings.sft_warmup if "sft_warmup" in sections else None
    refused: tuple[str, ...]
    whole = settings.egpo_rl.trained_weights == "all" and "egpo_rl" in sections
    if "egpo_rl" in sections:
        rollout = settings.egpo_rl.rollout
        yield partial(
            _check_sampler, "egpo_rl.rollout", rollout, warmup, here, ("vllm", "vllm_server") if whole else ()
        )
    if "bfcl_eval" in sections:
        refused = ("vllm_server",) if whole else ()  # in this process vLLM loads the whole model like any other
        yield partial(_check_sampler, "bfcl_eval", settings.bfcl_eval, warmup, here, refused)


def _check_sampler(
    name: str,
    settings: RolloutSettings | BfclEvalSettings,
    warmup: SftWarmupSettings | None,
    here: bool,
    refused: Collection[str],
) -> None:
    """vLLM is there, as a package in a local run or as the servers named, and can follow what `warmup` makes.

    `refused` are the samplers that cannot take all weights, where all are trained.
    """
    sampler = settings.sampler
    if sampler in refused:
        raise InputError(
            f"{name}.sampler: {sampler} takes adapters only, and egpo_rl.trained_weights=all trains all weights; set "
            f"{name}.sampler=transformers, or egpo_rl.trained_weights=adapter"
        )
    if sampler == "vllm" and here and find_spec("vllm") is None:
        raise InputError(f"{name}.sampler: vllm is not installed here; install it, or set {name}.sampler=transformers")
    if sampler != "transformers" and warmup and warmup.adapter.rank not in RANKS:
        ranks = ", ".join(map(str, RANKS))
        raise InputError(f"sft_warmup.adapter.rank: vLLM serves {ranks}, not {warmup.adapter.rank}")
    if sampler != "vllm_server":
        if settings.sampler_urls:
            raise InputError(f"{name}.sampler_urls: they have no effect with sampler={sampler}; set vllm_server")
        return
    if not settings.sampler_urls:
        raise InputError(f"{name}.sampler_urls: vllm_server needs at least one base URL, like http://vllm:8000")
    longest = settings.max_prompt_tokens + settings.max_new_tokens
    for url in settings.sampler_urls:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{name}.sampler_urls: {url}: an http(s) address is expected")
        try:
            answer = ask(url.rstrip("/") + MODELS)
            if answer.status != 200:
                raise NoAnswerError(f"HTTP {answer.status}")
            models = json.loads(answer.body)
        except (NoAnswerError, ValueError) as error:
            raise InputError(f"{name}.sampler_urls: {url}: no vLLM server answers there ({error})") from None
        if warmup is None:
            continue
        try:
            context = find_base_model(url, models, warmup.base_model)["max_model_len"]
        except InputError as error:
            raise InputError(f"{name}.{error}") from None
        if longest > context:
            raise InputError(
                f"{name}.sampler_urls: {url} takes {context} tokens, and "
                f"max_prompt_tokens={settings.max_prompt_tokens} with max_new_tokens={settings.max_new_tokens} are "
                f"{longest}; start it with a larger --max-model-len, or lower them"
            )
