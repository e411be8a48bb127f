"""The contract with vLLM's server, against a fake of it; tests/vllm has the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.errors import InputError, WorkError
from components.language_models.samplers import vllm_server
from components.language_models.samplers.published import publish_adapter
from components.language_models.samplers.vllm_server import VllmServerSampler
from tests.unit.language_models.fake_vllm_server import END, FakeVllm, fake_vllm_server

PROMPTS = [[5, 6, 7], [8, 9], [10]]
SEEDS = [[1, 2, 3, 4], [5, 6, 7], [8]]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with fake_vllm_server() as fake:
        yield fake


@pytest.fixture
def second() -> Iterator[FakeVllm]:
    with fake_vllm_server() as fake:
        yield fake


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 16}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def sampler_of(tmp_path: Path, *servers: FakeVllm) -> VllmServerSampler:
    return VllmServerSampler([server.url for server in servers], "/somewhere/base-model", tmp_path / "published", [END])


def test_a_rollout_per_seed_as_token_ids(server: FakeVllm, tmp_path: Path) -> None:
    sampler = sampler_of(tmp_path, server)
    server.completions.clear()
    groups = sampler.sample(PROMPTS, SEEDS, 0.7, 12)
    assert [len(group) for group in groups] == [4, 3, 1]
    asked = {(tuple(body["prompt"]), body["seed"]): body for body in server.completions}
    assert set(asked) == {(tuple(p), seed) for p, group in zip(PROMPTS, SEEDS, strict=True) for seed in group}
    for body in asked.values():  # nothing but the temperature shapes the distribution
        assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0.7, 1.0, 0, 0.0)
        penalties = body["repetition_penalty"], body["presence_penalty"], body["frequency_penalty"]
        assert (*penalties, body["allowed_token_ids"], body["max_tokens"]) == (1.0, 0.0, 0.0, None, 12)
        assert body["stop_token_ids"] == [END]
    rollouts = [rollout for group in groups for rollout in group]
    assert {rollout.finished for rollout in rollouts} == {True, False}
    for rollout in rollouts:
        assert rollout.finished == (rollout.tokens[-1] == END)
        assert rollout.logprobs == [-token / 0.7 / 100 for token in rollout.tokens]
    assert groups == sampler.sample(PROMPTS, SEEDS, 0.7, 12)


def test_a_group_stays_on_one_replica_and_all_replicas_work(server: FakeVllm, second: FakeVllm, tmp_path: Path) -> None:
    sampler = sampler_of(tmp_path, server, second)
    one = sampler_of(tmp_path, server).sample(PROMPTS, SEEDS, 0.7, 12)
    server.completions.clear()
    second.completions.clear()
    assert sampler.sample(PROMPTS, SEEDS, 0.7, 12) == one  # whichever replica answers
    assert {tuple(body["prompt"]) for body in server.completions} == {(5, 6, 7), (10,)}
    assert {tuple(body["prompt"]) for body in second.completions} == {(8, 9)}


def test_every_version_is_a_new_name_and_place_on_every_replica(
    server: FakeVllm, second: FakeVllm, adapter: Path, tmp_path: Path
) -> None:
    sampler = sampler_of(tmp_path, server, second)
    base = sampler.sample(PROMPTS, SEEDS, 0.7, 12)
    for version in (1, 2, 2):  # the third as after a resume
        sampler.sync(adapter, version)
    assert server.loads == second.loads
    names, places = zip(*server.loads, strict=True)
    assert len(set(names)) == len(set(places)) == 3
    assert [name.rsplit("-", 1)[0] for name in names] == ["policy-v1", "policy-v2", "policy-v2"]
    assert server.unloads == second.unloads == list(names[:2])
    assert [path.name for path in (tmp_path / "published").iterdir()] == [names[2]]
    server.completions.clear()
    assert sampler.sample(PROMPTS, SEEDS, 0.7, 12) != base
    assert {body["model"] for body in server.completions} == {names[2]}


def test_the_adapter_is_probed_before_it_is_used(server: FakeVllm, adapter: Path, tmp_path: Path) -> None:
    sampler = sampler_of(tmp_path, server)
    server.forgetful = True
    with pytest.raises(WorkError, match=r"policy-v1-\w+ right after loading it"):
        sampler.sync(adapter, 1)


def test_a_replica_that_lost_its_adapter_gets_it_again(server: FakeVllm, adapter: Path, tmp_path: Path) -> None:
    sampler = sampler_of(tmp_path, server)
    sampler.sync(adapter, 1)
    before = sampler.sample(PROMPTS, SEEDS, 0.7, 12)
    server.adapters.clear()  # as after a restart
    assert sampler.sample(PROMPTS, SEEDS, 0.7, 12) == before
    server.adapters.clear()
    sampler.sync(adapter, 2)  # there is nothing to unload
    server.adapters.clear()
    server.forgetful = True
    with pytest.raises(WorkError, match=r"lost the adapter .*--max-loras"):
        sampler.sample(PROMPTS, SEEDS, 0.7, 12)


def test_a_busy_server_is_asked_again(server: FakeVllm, tmp_path: Path) -> None:
    sampler = sampler_of(tmp_path, server)
    expected = sampler.sample(PROMPTS[:1], [[1]], 0.7, 12)
    server.failures = 3
    assert sampler.sample(PROMPTS[:1], [[1]], 0.7, 12) == expected
    server.failures = 100
    with pytest.raises(WorkError, match="503 overloaded"):
        sampler.sample(PROMPTS, SEEDS, 0.7, 12)


STOPPED_WHILE_SAMPLING = """
import os, pathlib, signal, sys, threading
from components.language_models.samplers.vllm_server import VllmServerSampler

def stop(*_):
    raise SystemExit(7)

signal.signal(signal.SIGTERM, stop)
sampler = VllmServerSampler(sys.argv[1:], "base-model", pathlib.Path("unused"))
print("ready", flush=True)
input()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
sampler.sample([[1], [2]], [[1, 2], list(range(200))], 1.0, 4)
"""


def test_told_to_stop_nobody_waits_for_a_server_that_hangs(server: FakeVllm) -> None:
    command = [sys.executable, "-c", STOPPED_WHILE_SAMPLING, server.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            server.delay = 600.0
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.wait(timeout=100) == 7
        finally:
            process.kill()


def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    with fake_vllm_server() as server:
        sampler = sampler_of(tmp_path, server)
    with pytest.raises(WorkError, match=rf"{server.url} does not answer.*refused"):
        sampler.sample(PROMPTS, SEEDS, 0.7, 12)


def test_another_model_is_refused(tmp_path: Path) -> None:
    with fake_vllm_server(model="other") as server:
        server.adapters["base-model"] = "/adapters/base-model"
        with pytest.raises(InputError, match="serves other, not the base model"):
            sampler_of(tmp_path, server)


def test_a_base_model_of_a_fixed_revision_is_found(server: FakeVllm, tmp_path: Path) -> None:
    VllmServerSampler([server.url], "someone/base-model@0a1b2c", tmp_path / "published")


def test_raw_logprobs_are_refused(tmp_path: Path, server: FakeVllm) -> None:
    server.raw_logprobs = True
    with pytest.raises(InputError, match="--logprobs-mode processed_logprobs"):
        sampler_of(tmp_path, server)


def test_a_server_without_token_ids_is_refused(tmp_path: Path, server: FakeVllm) -> None:
    server.token_ids = False
    with pytest.raises(WorkError, match="without token ids"):
        sampler_of(tmp_path, server)


def test_a_completion_that_the_shortest_context_would_cut_says_so(server: FakeVllm, tmp_path: Path) -> None:
    with fake_vllm_server(context=200) as longer:
        sampler = sampler_of(tmp_path, longer, server)
        sampler.sample([[1] * 88], [[1]], 0.7, 12)
        with pytest.raises(
            InputError, match="a prompt of 89 tokens and 12 new ones exceed the servers' context of 100"
        ):
            sampler.sample([[1], [1] * 89], [[1], [1]], 0.7, 12)


def test_what_the_server_refuses_is_told_at_once(server: FakeVllm, tmp_path: Path) -> None:
    sampler = sampler_of(tmp_path, server)
    server.completions.clear()
    with pytest.raises(InputError, match="Token id 1000 is out of vocabulary"):
        sampler.sample([[1000]], [[1]], 0.7, 12)
    assert len(server.completions) == 1


def test_an_adapter_that_does_not_fit_is_told_at_once(server: FakeVllm, adapter: Path, tmp_path: Path) -> None:
    """vLLM answers 500, which from other addresses is worth asking again."""
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 32}))
    with pytest.raises(WorkError, match=r"rank 32 is greater than max_lora_rank 16.* needs --enable-lora"):
        sampler_of(tmp_path, server).sync(adapter, 1)


def test_a_server_that_takes_no_adapters_says_what_it_needs(server: FakeVllm, adapter: Path, tmp_path: Path) -> None:
    sampler = sampler_of(tmp_path, server)
    server.runtime_lora = False
    with pytest.raises(WorkError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        sampler.sync(adapter, 1)


def test_what_is_no_vllm_server_is_named(tmp_path: Path) -> None:
    with fake_vllm_server() as server, pytest.raises(InputError, match="is not a vLLM server"):
        VllmServerSampler([server.url + "/elsewhere"], "base-model", tmp_path)


def test_no_server_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sampler_urls"):
        sampler_of(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"r": 12}', "serves ranks 1, 8, 16.*not 12"),
        ("{}", "no LoRA adapter"),
        ("[1]", "adapter_config.json: a JSON object is expected, not list"),
        ("[" * 100_000, "adapter_config.json: .*nested too deeply"),
    ],
    ids=["rank", "none", "list", "deep"],
)
def test_an_adapter_vllm_cannot_serve_is_refused(config: str, message: str, adapter: Path, tmp_path: Path) -> None:
    (adapter / "adapter_config.json").write_text(config)
    with pytest.raises(InputError, match=message):
        publish_adapter(adapter, tmp_path / "published", 1)
