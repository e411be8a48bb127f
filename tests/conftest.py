"""Fixtures for all tiers: a tiny random language model with a real tokenizer, and records to train it on."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The committed pipelines name the images of the release, not those of a cluster somebody works with.
os.environ.pop("CALLFORGE_REGISTRY", None)
os.environ.pop("CALLFORGE_IMAGE_TAG", None)

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.function_calls.record import Call, Message, Record, Tool

CITIES = ("Rome", "Oslo", "Lima", "Quito", "Zürich", "São Paulo", "Cairo", "Kyiv")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing a test fetches or remembers lands in the user's cache."""
    monkeypatch.setenv("CALLFORGE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Llama: 2 layers, hidden 64, 4 heads on 2 KV heads, tied, byte-level BPE, ChatML."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the S3 store and the MLflow server live that all tests of all workers share."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "servers"


@pytest.fixture(scope="session")
def servers(servers_folder: Path) -> Iterator[dict[str, str]]:
    """The environment that names them; what the user's own named is out of it from now on."""
    from pipelines.embedded import embedded_services

    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "MLFLOW_", "CALLFORGE_")):
                patch.delenv(name)
        with embedded_services(servers_folder) as environment:
            yield environment


@pytest.fixture(scope="session")
def make_records() -> Callable[[int], list[Record]]:
    """`make_records(n)`: n different records of all five categories, by turns."""
    return build_records


def build_tiny_model(folder: Path, head_size: int = 16) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from components.function_calls.prompt import build_prompt, render_turn
    from components.language_models.tokens import CHATML

    texts = []
    for record in build_records(20):
        prompt = build_prompt(record.messages, record.tools)
        texts += [message["content"] for message in prompt.messages]
        texts.append(render_turn(record.cot, record.answers, record.response, prompt.names).text)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    tokenizer.chat_template = CHATML
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=head_size,
                max_position_embeddings=4096,
                tie_word_embeddings=True,
                initializer_range=0.1,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_records(number: int) -> list[Record]:
    weather = Tool(
        "get_weather",
        "Weather of a city.",
        {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
            "required": ["city"],
        },
    )
    clock = Tool(
        "get_time",
        "Local time of a city.",
        {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    )
    records = []
    for index in range(number):
        choose = random.Random(index)
        one, two = choose.sample(CITIES, 2)
        days = choose.randint(1, 14)
        question, tools, answers = [
            (f"Weather in {one} for {days} days?", (weather,), (Call("get_weather", {"city": one, "days": days}),)),
            (f"What time is it in {one}?", (weather, clock), (Call("get_time", {"city": one}),)),
            (
                f"Weather in {one} and {two}?",
                (weather,),
                (Call("get_weather", {"city": one}), Call("get_weather", {"city": two})),
            ),
            (
                f"Time in {one}, and the weather in {two}?",
                (weather, clock),
                (Call("get_time", {"city": one}), Call("get_weather", {"city": two})),
            ),
            (f"Book me a train from {one} to {two}.", (weather, clock), ()),
        ][index % 5]
        thought = f"The user asks about {one}; {len(answers) or 'no'} call{'s' * (len(answers) != 1)}."
        records.append(
            Record(
                id=f"tiny-{index}",
                source="tiny",
                messages=(Message("user", f"{question} (request {index})"),),
                tools=tools,
                answers=answers,
                cot=thought,
                response=None if answers else "I have no function for that.",
            )
        )
    return records
