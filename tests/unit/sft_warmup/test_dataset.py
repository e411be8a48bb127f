"""Which records are trained on, in which order, and what is reported of the others."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from components.errors import InputError
from components.function_calls.prompt import NO_CALL_RESPONSE
from components.function_calls.record import Message
from components.language_models.tokens import decode_turn
from components.settings import SftWarmupSettings
from components.sft_warmup.dataset import Example, StepBatches, encode_examples
from components.stages.refined_records import read_refined


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def _settings(**values):
    return SftWarmupSettings(**{"steps": 3, "batch_size": 4} | values)


def _examples(number):
    return [Example([index] * (index % 7 + 1), [1, 2], [True, False]) for index in range(number)]


def test_every_record_is_seen_once_per_epoch_in_an_order_of_its_own():
    batches = StepBatches(_examples(12), steps=9, batch_size=4, seed=0)
    seen = [[example.prompt[0] for example in batches[step]] for step in range(9)]
    epochs = [[*seen[start], *seen[start + 1], *seen[start + 2]] for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len(batches) == 9


def test_a_batch_does_not_depend_on_the_batches_asked_for_before():
    one, other = (StepBatches(_examples(10), steps=20, batch_size=4, seed=5) for _ in range(2))
    for step in range(17):
        one[step]
    assert one[17] == other[17]
    assert StepBatches(_examples(10), steps=20, batch_size=4, seed=6)[17] != other[17]


def test_a_batch_is_sorted_by_length():
    lengths = [len(example.prompt) for example in StepBatches(_examples(40), 2, 16, 0)[1]]
    assert lengths == sorted(lengths)


def test_records_are_held_out_before_any_is_trained_on(tokenizer, make_records):
    records = make_records(60)
    examples = encode_examples(records, tokenizer, _settings(steps=100))
    assert len(examples.held_out) == 3 and len(examples.training) == 57
    assert not any(example in examples.training for example in examples.held_out)
    again = encode_examples(records, tokenizer, _settings(steps=3))
    assert again.held_out == examples.held_out and again.training == examples.training[:12]
    assert again.trainable == examples.trainable == 57, "whether the steps use them all or not"


def test_long_records_are_left_out_and_counted(tokenizer, make_records):
    records = make_records(40)
    whole = encode_examples(records, tokenizer, _settings(steps=100))
    lengths = sorted(len(example.prompt) for example in whole.training + whole.held_out)
    limit = lengths[30]
    examples = encode_examples(records, tokenizer, _settings(steps=100, max_prompt_tokens=limit))
    assert max(len(example.prompt) for example in examples.training) <= limit
    over = sum(length > limit for length in lengths)
    assert over and examples.left_out == Counter({f"a prompt over {limit} tokens": over})
    assert examples.trainable == 38 - over


def test_a_conversation_that_the_chat_template_refuses_is_left_out_and_counted(tiny_model, make_records):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if loop.index0 == 1 and m.role == 'assistant' %}{{ raise_exception('user first') }}"
        "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    records = make_records(9)
    records[4] = replace(records[4], messages=(Message("assistant", "How can I help?"), *records[4].messages))
    examples = encode_examples(records, tokenizer, _settings(steps=2))
    assert len(examples.training) == 8
    assert examples.left_out == Counter({"an order of roles that the chat template refuses": 1})


GREETING = Path(__file__).parents[4] / "shared/cases/greeting.jsonl"  # one conversation opens with the assistant


@pytest.mark.skipif(not GREETING.exists(), reason=f"{GREETING} is not here")
@pytest.mark.parametrize(("name", "refused"), [("gemma", 1), ("cohere", 1), ("qwen3", 0)])
def test_real_templates_take_the_records_or_have_them_set_aside(tiny_model, name, refused):
    trl = pytest.importorskip("trl")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    examples = encode_examples(read_refined(GREETING), tokenizer, _settings(steps=100))
    assert len(examples.training) + len(examples.held_out) == 40 - refused == 40 - examples.left_out.total()


def test_a_turn_that_its_reward_refuses_is_left_out_and_counted(tokenizer, make_records):
    spoiled = replace(make_records(5)[4], response='Sure:\nget_weather(city="Rome")', answers=())
    tool = replace(spoiled.tools[0], name="get_weather")
    examples = encode_examples([replace(spoiled, tools=(tool,)), *make_records(20)], tokenizer, _settings(steps=100))
    assert examples.left_out == Counter({"a turn that its reward refuses (call_in_text)": 1})


def test_too_few_records_are_refused_with_their_number(tokenizer, make_records):
    with pytest.raises(
        InputError, match=r"3 records to train on \(3 read, 0 held out\), and one step needs batch_size=4"
    ):
        encode_examples(make_records(3), tokenizer, _settings())


def test_records_that_are_all_too_long_are_refused_with_counts(tokenizer, make_records):
    with pytest.raises(InputError, match=r"0 records to train on \(9 read.*, 9 left out for a prompt over 16 tokens"):
        encode_examples(make_records(9), tokenizer, _settings(max_prompt_tokens=16))
    with pytest.raises(InputError, match="9 left out for a turn over 8 tokens"):
        encode_examples(make_records(9), tokenizer, _settings(max_turn_tokens=8))


def test_no_steps_want_no_records(tokenizer):
    assert encode_examples([], tokenizer, _settings(steps=0)).training == []


def test_a_record_without_thought_or_response_gets_an_empty_thought_and_the_fixed_answer(tokenizer, make_records):
    record = replace(make_records(5)[4], cot=None, response=None)
    example = encode_examples([record] * 4, tokenizer, _settings(steps=1)).training[0]
    assert decode_turn(tokenizer, example.turn) == f"<think></think>\n{NO_CALL_RESPONSE}"
    assert decode_turn(tokenizer, example.turn[: sum(example.thought_mask)]) == "<think></think>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "qualified.jsonl.gz"),
        (gzip.compress(b'{"id": "a"}\n', mtime=0), "line 1: structure"),
        (gzip.compress(b"x" * 100_000, mtime=0)[:60], "qualified.jsonl.gz"),
    ],
)
def test_a_spoiled_file_of_records_is_named(tmp_path, content, message):
    path = tmp_path / "qualified.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_refined(path)
