"""The order of the prompts, the ones set aside, left out and retired."""

from __future__ import annotations

import gzip
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from components.egpo_rl.prompts import (
    REST_EPOCHS,
    SOLVED_VISITS,
    PromptOrder,
    pass_rates_from_json,
    pass_rates_to_json,
    read_training_records,
)
from components.errors import InputError
from components.function_calls.record import Message
from tests.unit.egpo_rl.egpo_support import stage_inputs


@pytest.fixture
def order_of(tiny_model, make_records):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def make(number=20, max_prompt_tokens=4000, held_out=4, seed=0, retire_solved=False):
        return PromptOrder(make_records(number), tokenizer, max_prompt_tokens, held_out, seed, retire_solved)

    return make


def indexes(drawn):
    return [prompt.index for prompt in drawn]


def test_a_conversation_that_the_chat_template_refuses_is_set_aside(tiny_model, make_records):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% if messages[1].role == 'assistant' %}{{ raise_exception('user first') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    records = make_records(20)
    for index in (3, 11):
        messages = (Message("assistant", "How can I help?"), *records[index].messages)
        records[index] = replace(records[index], messages=messages)
    order = PromptOrder(records, tokenizer, 4000, 4, 0, retire_solved=False)
    assert order.refused == {3, 11}
    drawn, _ = order.draw(50, 0, {})
    assert sorted(indexes(drawn) + indexes(order.held_out)) == sorted(set(range(20)) - {3, 11})


def test_an_epoch_is_every_prompt_once_and_the_next_another_order(order_of):
    order = order_of()
    first, cursor = order.draw(16, 0, {})
    second, cursor = order.draw(16, cursor, {})
    aside = set(indexes(order.held_out))
    assert len(aside) == 4 and cursor == 32
    assert sorted(indexes(first)) == sorted(indexes(second)) == sorted(set(range(20)) - aside)
    assert indexes(first) != indexes(second)


def test_the_cursor_stops_where_every_prompt_was_looked_at(order_of):
    drawn, cursor = order_of().draw(50, 0, {})
    assert (len(drawn), cursor) == (16, 16)


def test_drawing_is_a_function_of_seed_and_cursor(order_of):
    one, other = order_of(), order_of()
    _, cursor = one.draw(7, 0, {})
    expected = indexes(one.draw(12, cursor, {})[0])
    assert indexes(other.draw(12, cursor, {})[0]) == expected
    assert indexes(order_of(seed=1).draw(12, cursor, {})[0]) != expected


def test_a_step_never_holds_a_prompt_twice(order_of):
    order = order_of()
    drawn, cursor = order.draw(50, 3, {})
    assert len(drawn) == len(set(indexes(drawn))) == 16
    more, _ = order.draw(50, cursor, {}, taken=indexes(drawn)[:14])
    assert sorted(indexes(more)) == sorted(indexes(drawn)[14:])


def test_long_prompts_are_left_out_and_counted(order_of):
    order = order_of(held_out=0)
    lengths = {prompt.index: len(prompt.ids) for prompt in order.draw(20, 0, {})[0]}
    limit = sorted(lengths.values())[10]
    short = order_of(max_prompt_tokens=limit, held_out=0)
    fitting = {index for index, length in lengths.items() if length <= limit}
    assert set(indexes(short.draw(20, 0, {})[0])) == fitting
    assert short.too_long == set(range(20)) - fitting
    with pytest.raises(InputError, match="max_prompt_tokens"):
        order_of(max_prompt_tokens=16)


def test_at_most_a_fifth_is_held_out(order_of):
    assert len(order_of(held_out=32).held_out) == 4


def test_solved_prompts_rest_and_come_back(order_of):
    order = order_of(retire_solved=True)
    size = len(order.training)
    solved = order.training[0]
    table = {}
    for visit in range(SOLVED_VISITS):
        assert solved in indexes(order.draw(size, visit * size, table)[0])
        table = order.seen(table, visit * size, [(solved, 1.0), (order.training[1], 0.5)])
    epochs = range(SOLVED_VISITS, SOLVED_VISITS + REST_EPOCHS + 1)
    present = [solved in indexes(order.draw(size - 1, epoch * size, table)[0]) for epoch in epochs]
    assert present == [False] * REST_EPOCHS + [True]
    assert solved in indexes(order.draw(size, SOLVED_VISITS * size, table)[0]), "better early than an empty step"
    again = order.seen(table, epochs[-1] * size, [(solved, 0.5)])
    assert solved in indexes(order.draw(size, (epochs[-1] + 1) * size, again)[0])
    assert pass_rates_from_json(pass_rates_to_json(table)) == table


def test_unreadable_records_are_named(tmp_path, tiny_model, make_records):
    folder = stage_inputs(tmp_path, tiny_model, make_records(3))["records"]
    assert [record.id for record in read_training_records(folder)] == [record.id for record in make_records(3)]
    file = folder / "qualified.jsonl.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"qualified\.jsonl\.gz"):
        read_training_records(folder)
    file.write_bytes(gzip.compress(gzip.decompress(whole) + b'{"id": 3}\n'))
    with pytest.raises(InputError, match="line 4"):
        read_training_records(folder)
    file.write_bytes(gzip.compress(b""))
    with pytest.raises(InputError, match="no record"):
        read_training_records(folder)
    file.unlink()
    with pytest.raises(InputError, match="qualified"):
        read_training_records(folder)
