"""What tests/unit/language_models/test_vllm_server.py says of a fake, where it hangs on the real server's answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.errors import InputError, WorkError
from components.language_models.samplers import vllm_server
from components.language_models.samplers.vllm_server import VllmServerSampler
from tests.vllm.conftest import CONTEXT, running_server

PROMPT = [300, 301, 302]


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "PAUSES", ())


@pytest.fixture
def sampler(server: str, base: Path, tmp_path: Path) -> VllmServerSampler:
    return VllmServerSampler([server], str(base), tmp_path / "published")


def test_another_model_is_refused(server: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"serves {base}, not the base model /models/other-base"):
        VllmServerSampler([server], "/models/other-base", tmp_path)
    with pytest.raises(InputError, match="is not a vLLM server"):
        VllmServerSampler([server + "/elsewhere"], str(base), tmp_path)


def test_a_lost_adapter_is_loaded_again(
    sampler: VllmServerSampler, make_adapter: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler.sync(make_adapter(1), 1)
    expected = sampler.sample([PROMPT], [[1, 2, 3]], 0.7, 8)
    lose(sampler)
    assert sampler.sample([PROMPT], [[1, 2, 3]], 0.7, 8) == expected
    lose(sampler)
    monkeypatch.setattr(sampler, "_load_adapter", lambda *_: None)  # a server that loses it at once
    with pytest.raises(WorkError, match=r"lost the adapter policy-v1-.* twice"):
        sampler.sample([PROMPT], [[1]], 0.7, 8)
    with pytest.raises(WorkError, match=r"does not know the adapter policy-v2-.* right after loading it"):
        sampler.sync(make_adapter(2), 2)


def lose(sampler: VllmServerSampler) -> None:
    assert sampler.adapter is not None
    sampler._ask(sampler.urls[0], "/v1/unload_lora_adapter", {"lora_name": sampler.adapter[0]})


def test_a_sync_bears_that_the_adapter_before_is_lost(
    sampler: VllmServerSampler, make_adapter: Callable[[int], Path]
) -> None:
    sampler.sync(make_adapter(1), 1)
    lose(sampler)
    sampler.sync(make_adapter(2), 2)
    assert sampler.sample([PROMPT], [[1]], 0.7, 8)


def test_a_folder_that_the_server_does_not_see_is_named(
    sampler: VllmServerSampler, make_adapter: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vllm_server, "publish_adapter", lambda *_: tmp_path / "not-mounted")
    with pytest.raises(WorkError, match=r"adapter .*/not-mounted: .*No adapter found.* mounted at the same path"):
        sampler.sync(make_adapter(1), 1)


def test_a_completion_that_the_context_would_cut_is_an_error(sampler: VllmServerSampler) -> None:
    ((rollout,),) = sampler.sample([[300] * (CONTEXT - 8)], [[1]], 0.0, 8)
    assert len(rollout.tokens) == 8
    with pytest.raises(InputError, match=f"exceed the servers' context of {CONTEXT}"):
        sampler.sample([[300] * (CONTEXT - 7)], [[1]], 0.0, 8)


def test_a_token_the_server_does_not_know_is_an_error(sampler: VllmServerSampler) -> None:
    with pytest.raises(InputError, match="Token id 100000 is out of vocabulary"):
        sampler.sample([[100_000]], [[1]], 0.7, 8)


def test_a_server_of_raw_logprobs_and_one_without_adapters_are_refused(
    base: Path, tmp_path: Path, make_adapter: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_server(base, tmp_path / "log") as url:
        with pytest.raises(InputError, match="--logprobs-mode processed_logprobs"):
            VllmServerSampler([url], str(base), tmp_path / "published")
        monkeypatch.setattr(VllmServerSampler, "_check_logprobs", lambda *_: None)
        sampler = VllmServerSampler([url], str(base), tmp_path / "published")
        with pytest.raises(WorkError, match=r"LoRA is not enabled.* It needs --enable-lora"):
            sampler.sync(make_adapter(1), 1)
