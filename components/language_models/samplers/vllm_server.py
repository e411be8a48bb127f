"""Sampling from one or several vLLM servers over their OpenAI-compatible HTTP interface; token ids both ways.

Every rollout is a request of its own with its own seed; a group goes to one replica, where the prefix cache shares its
prompt. Adapters are loaded on every replica under a new name and path, probed, and only then used; the one before is
unloaded after that. A replica that restarted and lost its adapter gets it again, once per request.

Servers need: --enable-lora --max-lora-rank R --max-loras 2 --logprobs-mode processed_logprobs, and the variable
VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 (reachable only from the trainer: it lets any caller load files). The folder of
published adapters must be mounted at the same path on both sides.
"""

from __future__ import annotations

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

from components.errors import InputError, WorkError
from components.language_models.samplers import Rollout
from components.language_models.samplers.published import publish_adapter

CONNECTIONS = 128  # requests in flight to one replica
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds between tries while a replica does not answer
TIMEOUT = 600.0  # seconds one request may take
PROBE = [1, 2, 3, 4]  # token ids every vocabulary has
MODELS = "/v1/models"
LOAD_ADAPTER, UNLOAD_ADAPTER = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


class _AdapterLost(Exception):
    """The replica does not know the adapter's name (any more)."""


class _Refused(Exception):
    """The replica answered with an error that asking again would not fix."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def find_base_model(url: str, answer: Any, base_model: str) -> dict[str, Any]:
    """The entry of the base model in what `url` answers at MODELS.

    Args:
        base_model: a path or hub id, with @revision or without; the server's has the same last part.

    Raises:
        InputError: this is not an answer of vLLM's, or the server serves another model.
    """
    try:
        # Adapters have a parent and no length.
        served = [model for model in answer["data"] if model["parent"] is None and model["max_model_len"]]
        names = [(Path(model["id"]).name, Path(model["root"]).name) for model in served]
    except (KeyError, TypeError):
        raise InputError(f"sampler_urls: {url} is not a vLLM server: {MODELS} does not answer as vLLM's") from None
    last = Path(base_model).name
    for model, own in zip(served, names, strict=True):
        if last in own or last.partition("@")[0] in own:
            return dict(model)
    found = ", ".join(model["id"] for model in served) or "nothing"
    raise InputError(f"sampler_urls: {url} serves {found}, not the base model {base_model}")


class VllmServerSampler:
    """Samples from the replicas of one base model.

    Args:
        urls: base URL of each replica, like http://vllm-0:8000.
        base_model: what the servers must serve (find_base_model).
        folder: where adapters are published, seen by the servers under the same path.
        stop_token_ids: end-of-turn tokens besides the model's own.

    Raises:
        InputError: a server serves another model, or does not give log-probabilities at the sampling temperature.
        WorkError: a server does not answer.
    """

    def __init__(self, urls: Sequence[str], base_model: str, folder: Path, stop_token_ids: Sequence[int] = ()) -> None:
        self.urls = [url.rstrip("/") for url in urls]
        if not self.urls:
            raise InputError("sampler_urls: vllm_server needs at least one base URL, like http://vllm:8000")
        self.folder = folder
        self.stop_token_ids = sorted(stop_token_ids)
        served = {url: find_base_model(url, self._models(url), base_model) for url in self.urls}
        self.base_names = {url: str(model["id"]) for url, model in served.items()}
        self.context = min(int(model["max_model_len"]) for model in served.values())
        self.adapter: tuple[str, Path] | None = None  # name and place, the same on every replica
        for url in self.urls:
            self._check_logprobs(url)

    def sample(
        self, prompts: list[list[int]], seeds: list[list[int]], temperature: float, max_new_tokens: int
    ) -> list[list[Rollout]]:
        """As Sampler.sample.

        Raises:
            InputError: a prompt and its completion exceed the servers' context, or a server refuses a request.
            WorkError: a replica stopped answering, or keeps losing its adapter.
        """
        longest = max(map(len, prompts), default=0)
        if longest + max_new_tokens > self.context:  # vLLM would cut the completion and say nothing
            raise InputError(
                f"sampler_urls: a prompt of {longest} tokens and {max_new_tokens} new ones exceed the servers' context "
                f"of {self.context}; start them with a larger --max-model-len, or lower max_prompt_tokens"
            )
        requests = [
            (seed, self.urls[index % len(self.urls)], prompt, temperature, max_new_tokens)
            for index, (prompt, group) in enumerate(zip(prompts, seeds, strict=True))
            for seed in group
        ]
        rollouts = iter(_in_threads(self._rollout, requests, CONNECTIONS * len(self.urls)))
        return [list(islice(rollouts, len(group))) for group in seeds]

    def sync(self, adapter_folder: Path, version: int) -> None:
        """Publish the adapter, load it on every replica, probe it, switch to it, drop the one before.

        Raises:
            WorkError: a replica cannot load it or does not answer under its name.
        """
        before = self.adapter
        place = publish_adapter(adapter_folder, self.folder, version).resolve()
        for url in self.urls:
            self._load_adapter(url, place)
            try:
                self._complete(url, place.name, PROBE, 0, 0.0, 1)
            except _AdapterLost:
                raise WorkError(f"{url} does not know the adapter {place.name} right after loading it") from None
        self.adapter = (place.name, place)
        if before is not None:
            for url in self.urls:
                with suppress(_Refused):  # a replica that restarted has lost it already
                    self._ask(url, UNLOAD_ADAPTER, {"lora_name": before[0]})
            shutil.rmtree(before[1], ignore_errors=True)

    def _rollout(self, seed: int, url: str, prompt: list[int], temperature: float, max_new_tokens: int) -> Rollout:
        if self.adapter is None:
            return self._complete(url, self.base_names[url], prompt, seed, temperature, max_new_tokens)
        name, place = self.adapter
        try:
            return self._complete(url, name, prompt, seed, temperature, max_new_tokens)
        except _AdapterLost:
            self._load_adapter(url, place)
        try:
            return self._complete(url, name, prompt, seed, temperature, max_new_tokens)
        except _AdapterLost:
            raise WorkError(
                f"{url} lost the adapter {name} twice: give the server room for it (--max-loras 2, --max-cpu-loras 2)"
            ) from None

    def _complete(
        self,
        url: str,
        model: str,
        prompt: list[int],
        seed: int,
        temperature: float,
        max_new_tokens: int,
        allowed: list[int] | None = None,
    ) -> Rollout:
        request = {  # what is left out the server takes from the model's generation_config.json
            "model": model,
            "prompt": prompt,
            "seed": seed,
            "temperature": temperature,
            "max_tokens": max_new_tokens,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "allowed_token_ids": allowed,
            "logprobs": 0,
            "return_token_ids": True,
            "stop_token_ids": self.stop_token_ids,
        }
        try:
            answer = self._ask(url, "/v1/completions", request)
        except _Refused as error:
            if error.status == 404 and model != self.base_names[url]:
                raise _AdapterLost from None
            raise InputError(f"{url} refuses a request ({error.status}): {error}") from None
        try:
            (choice,) = answer["choices"]
            tokens, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            usable = len(tokens) == len(logprobs) and all(type(token) is int for token in tokens)
        except (KeyError, TypeError, ValueError):
            usable = False
        if not usable:
            raise WorkError(f"{url} answers without token ids and log-probabilities: vLLM 0.20 or newer is needed")
        return Rollout(tokens, choice["finish_reason"] == "stop", [float(logprob) for logprob in logprobs])

    def _load_adapter(self, url: str, place: Path) -> None:
        try:
            self._ask(url, LOAD_ADAPTER, {"lora_name": place.name, "lora_path": str(place)})
        except _Refused as error:
            if "already" not in str(error):
                raise WorkError(
                    f"{url} cannot load the adapter {place}: {error}. It needs --enable-lora, --max-lora-rank, the "
                    "variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, and that folder mounted at the same path"
                ) from None

    def _models(self, url: str) -> Any:
        try:
            return self._ask(url, MODELS)
        except _Refused:
            return None

    def _check_logprobs(self, url: str) -> None:
        """Log-probabilities must be those that are sampled from: raw ones would bias every ratio."""
        forced = self._complete(url, self.base_names[url], PROBE, 0, 1.0, 1, allowed=PROBE[:1])
        if forced.logprobs != [0.0]:  # the only token allowed is certain
            raise InputError(
                f"sampler_urls: {url} gives log-probabilities before the temperature; start it with "
                "--logprobs-mode processed_logprobs"
            )

    def _ask(self, url: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON, or its text; a GET where `body` is None. Patient while the replica does not answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})  # noqa: S310  # preflight takes http only
        cause = ""
        for pause in (0.0, *PAUSES):
            time.sleep(pause)
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310  # preflight takes http only
                    return _parse(response.read())
            except urllib.error.HTTPError as error:
                cause = _message(_parse(error.read()))
                unfit = path == LOAD_ADAPTER and error.code == 500
                if unfit or (error.code < 500 and error.code not in (408, 429)):
                    raise _Refused(error.code, cause) from None
                cause = f"{error.code} {cause}"
            except (OSError, http.client.HTTPException) as error:
                cause = str(getattr(error, "reason", error))
        raise WorkError(f"{url} does not answer ({cause}); tried for {sum(PAUSES):.0f} s")


def _in_threads(function: Callable[..., Rollout], jobs: Sequence[tuple[Any, ...]], num_threads: int) -> list[Rollout]:
    """The results of `function` for all `jobs`, in their order.

    The threads are daemons, which those of a ThreadPoolExecutor are not: a server that hangs holds up neither an
    exception (the process is told to stop, a request is refused) nor the end of the interpreter.
    """
    results: list[Future[Rollout]] = [Future() for _ in jobs]
    waiting = deque(zip(results, jobs, strict=True))

    def work() -> None:
        with suppress(IndexError):  # none is waiting any more
            while True:
                result, job = waiting.popleft()
                try:
                    result.set_result(function(*job))
                except BaseException as error:
                    result.set_exception(error)

    try:
        for _ in range(min(num_threads, len(jobs))):
            Thread(target=work, daemon=True).start()
        return [result.result() for result in results]
    finally:
        waiting.clear()


def _parse(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        return answer.decode("utf-8", "replace")[:500]


def _message(answer: Any) -> str:
    """What an error says: {"error": {"message": ..}} of the OpenAI interface, {"detail": ..} of its framework."""
    if isinstance(answer, dict):
        error = answer.get("error", answer)
        answer = error.get("message") or error.get("detail") or error if isinstance(error, dict) else error
    return str(answer)
