"""What stages make of a fixed input, held against the version under which finished work is kept.

Of the code, a stage's identity has only numbers that somebody raises: `version` in components/stages/catalogue.py and
PROMPT_VERSION in components/function_calls/prompt.py. Whoever forgets it lets old results pass as those of the new
code. What is exact on every machine is held here: texts, token ids, orders, verdicts. Losses and weights, which differ
between CPUs in their last digits, are not, and neither is the merge of model_registration.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from components.bfcl_eval.evaluate import grade_answer
from components.bfcl_eval.generations import Generation
from components.bfcl_eval.own_records import load_own_questions
from components.bfcl_eval.questions import SIZES, load_questions
from components.data_refine.refine import refine
from components.data_refine.sample_source import sample_records
from components.egpo_rl.algorithms import group_advantages
from components.egpo_rl.prompts import PromptOrder
from components.egpo_rl.rewards import REWARDS
from components.egpo_rl.rollouts import rollout_seed
from components.files import sha256_of_json
from components.function_calls.prompt import PROMPT_VERSION, Prompt, ToolNames, build_prompt, render_calls, render_turn
from components.function_calls.record import Call, Record, record_to_json
from components.language_models.tokens import CHATML
from components.settings import DataRefineSettings, SftWarmupSettings
from components.sft_warmup.dataset import StepBatches, encode_examples
from components.stages.catalogue import find_stage
from components.stages.refined_records import read_refined

GOLDEN = {
    "the prompt": {"PROMPT_VERSION 2": "5fb66242f9a6c392"},
    "data_refine": {"version 3": "d08867794e96f733"},
    "sft_warmup": {"version 2, PROMPT_VERSION 2": "d4e9ad3203a42910"},
    "egpo_rl": {"version 3, PROMPT_VERSION 2": "bb4a140b6eedd8ec"},
    "bfcl_eval": {"version 5, PROMPT_VERSION 2": "e386b431b47e12d1"},
}
"""Digests of what is made, by the versions that it is made under."""

WEATHER = {
    "name": "get-weather",  # no Python name: it is renamed in the prompt
    "description": "Weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Its name."},
            "days": {"type": "integer", "default": 1},
            "from": {"type": "string", "default": None},
        },
        "required": ["city"],
    },
}
CLOCK = {"name": "clock.time", "description": "Time of a city.", "parameters": {"city": {"type": "str", "default": ""}}}
OPENAI = {"type": "function", "function": WEATHER}
CALL = {"name": "get-weather", "arguments": '{"city": "Porto"}'}


def _record(name: str, question: str, answers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"id": name, "messages": messages, "tools": [WEATHER], "answers": answers, **more}


def _asks(city: str, days: Any = 2) -> list[dict[str, Any]]:
    return [{"name": "get-weather", "arguments": {"city": city, "days": days}}]


CITIES = ("Rome", "Oslo", "Lima", "Quito", "Cairo", "Kyiv", "Zürich", "東京")
CALLED = [
    _record(f"call {city}", f"Weather in {city} for 2 days?", _asks(city), cot=f"They ask for {city}.")
    for city in CITIES
]
GOOD = [
    *CALLED,
    _record("two calls", "Weather in Rome and Oslo for 2 days?", [*_asks("Rome"), *_asks("Oslo")]),
    _record("whole float", "Weather in Bern for 5 days?", _asks("Bern", 5.0)),
    _record("no call", "Sing a song.", [], response="I only know the weather."),
    _record("no response", "Sing another.", []),
]
"""In callforge's own layout, as refinement leaves them."""
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Porto?"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": CALL}]},
    {"role": "tool", "tool_call_id": "1", "content": "18 degrees"},
    {"role": "assistant", "content": "18 degrees in Porto."},
]
LINES = [
    *GOOD,
    _record("twice", "Weather in Rome for 2 days?", _asks("Rome")),
    _record("ungrounded", "Weather at home for 2 days?", _asks("Paris")),
    _record("wrong type", "Weather in Nice for 2 days?", _asks("Nice", "2")),
    _record("unknown tool", "Call a taxi.", [{"name": "taxi", "arguments": {}}]),
    _record("no call that calls", "Sing me another.", [], response='[get_weather(city="Rome")]'),
    {"query": "Time in Rome?", "tools": [CLOCK], "answers": [{"name": "clock.time", "arguments": {"city": "Rome"}}]},
    {"messages": CONVERSATION, "tools": [OPENAI]},
    {"id": "nothing known", "text": "?"},
]


def _write(path: Path, lines: list[dict[str, Any]], last: str = "") -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines) + last, "utf-8")
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return read_refined(_write(tmp_path_factory.mktemp("records") / "records.jsonl", GOOD))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte: its ids do not depend on any text."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate([*special, *letters])}, []))
    backend.add_special_tokens(special)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=special[2], pad_token=special[0])
    made.chat_template = CHATML
    return made


def check(name: str, made: Any) -> None:
    """Compare the digest of `made` with the one that the present versions have."""
    digest = sha256_of_json(made)[:16]
    versions = f"PROMPT_VERSION {PROMPT_VERSION}"
    remedy = "PROMPT_VERSION in components/function_calls/prompt.py"
    if name != "the prompt":
        stage = find_stage(name)
        versions = f"version {stage.version}" + (f", {versions}" if stage.renders_prompts else "")
        remedy = f"`version` of {name} in components/stages/catalogue.py (or PROMPT_VERSION, if it is the prompt)"
    assert GOLDEN[name].get(versions) == digest, (
        f"{name} of {versions} makes something else of the same input (digest {digest}) than the code did to which "
        f"GOLDEN gives that version, and work finished by the earlier code would be kept. If the change is meant, "
        f"raise {remedy}, and replace the entry of GOLDEN by the new version and digest; else undo the change"
    )


def test_what_refinement_makes(tmp_path: Path) -> None:
    questions = [question.messages[-1].content for question in load_questions(["multiple", "live_simple"])]
    short = [text for text in questions if len(text.split()) < 5]
    known = [
        _record(f"{index} {kind}", text, _asks("Rome"))
        for index, question in enumerate(questions[:3] + questions[-3:] + short[:3])
        for kind, text in (
            ("whole", question),
            ("behind", f"One more thing. {question}"),
            ("half", question[::2]),
            ("full width", question.translate({code: code + 0xFEE0 for code in range(33, 127)})),
            ("unseen", question.replace("e", "e\u200b")),
        )
    ]
    data = _write(tmp_path / "records.jsonl", [*LINES, *known], last="{\n")
    refine(DataRefineSettings(data=str(data), held_out_share=0.2), tmp_path)
    made = {name: _lines(tmp_path / f"{name}.jsonl.gz") for name in ("qualified", "held_out", "hard", "rejected")}
    check("data_refine", made | {"sample": [record_to_json(record) for record in sample_records(50, 0)]})


def _lines(path: Path) -> list[Any]:
    """Without `detail`: words for people, some of them Python's."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [{name: value for name, value in json.loads(line).items() if name != "detail"} for line in file]


def test_what_the_prompt_is(records: list[Record]) -> None:
    rendered = []
    for prompt, record in _prompts(records):
        turn = render_turn(record.cot, record.answers, record.response, prompt.names)
        rendered.append([prompt.messages, turn.text])
    asked = [question.prompt().messages for question in load_questions(list(SIZES), 3)]
    check("the prompt", [rendered, asked])


def _prompts(records: list[Record]) -> Iterator[tuple[Prompt, Record]]:
    for record in records:
        yield build_prompt(record.messages, record.tools), record


def test_what_the_warm_up_trains_on(records: list[Record], tokenizer: Any) -> None:
    config = SftWarmupSettings(steps=4, batch_size=2)
    examples = encode_examples(records, tokenizer, config)
    batches = StepBatches(examples.training, config.steps, config.batch_size, config.seed)
    shown = [[[item.prompt, item.turn, item.thought_mask] for item in batches[step]] for step in range(config.steps)]
    check("sft_warmup", [shown, len(examples.held_out), dict(examples.left_out)])


def test_which_prompts_are_drawn_and_what_their_rollouts_earn(records: list[Record], tokenizer: Any) -> None:
    order = PromptOrder(records, tokenizer, 4096, held_out=2, seed=0, retire_solved=True)
    drawn, cursor = order.draw(5, 0, {})
    seen = order.seen({}, cursor, [(prompt.index, 1.0) for prompt in drawn])
    again, _ = order.draw(5, cursor, seen)
    indexes = [[prompt.index for prompt in some] for some in (order.held_out, drawn, again)]
    earned = []
    for prompt, record in _prompts(records):
        for text in _answers(prompt.names, list(record.answers) or [Call("get-weather", {"city": "Rome"})]):
            for finished in (True, False):
                rewards = [reward(text, finished, record, prompt.names) for reward in REWARDS.values()]
                earned.append([[round(reward.value, 6), reward.solved, reward.reason] for reward in rewards])
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0], [1.0] * 5])).double()
    shown = [[round(value, 5) for value in row] for row in advantages.tolist()]
    check("egpo_rl", [indexes, [prompt.ids for prompt in drawn], earned, shown, rollout_seed(0, 1, 2, 3)])


def test_which_questions_are_asked_and_how_answers_are_graded(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "held_out.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in GOOD)
    own, _, _ = load_own_questions(str(tmp_path / "held_out.jsonl.gz"), 9, 0)
    graded = []
    for question in [*load_questions(list(SIZES), 3), *own]:
        names = ToolNames(question.tools)
        if question.record is not None:
            gold = list(question.record.answers)
        else:
            gold = [Call(name, _first(arguments)) for call in question.gold or [] for name, arguments in call.items()]
        for text in _answers(names, gold or [Call(question.tools[0].name, {})]):
            outcome = grade_answer(question, Generation(question.id, text, True, 9, 9, 0.0))
            graded.append([outcome.id, outcome.category, outcome.right, outcome.reason, outcome.form])
    check("bfcl_eval", graded)


def _first(arguments: dict[str, list[Any]]) -> dict[str, Any]:
    """Of the values that the answer key allows; "" there allows to leave an argument out."""
    return {name: values[0] for name, values in arguments.items() if values and values[0] != ""}


def _answers(names: ToolNames, gold: list[Call]) -> list[str]:
    """Right and wrong turns in many forms."""
    calls = render_calls(gold, names)
    other = render_calls([Call(call.name, {**call.arguments, "more": 1}) for call in gold], names)
    bare = calls.strip("[]")
    forms = [calls, other, calls[:-2], "Nothing fits.", "", f"Here: {calls}", f"```\n{calls}\n```", f"**{bare}**"]
    forms += [bare, f"Then: {bare}", f">>> {bare}", f"$ {bare}", f"x = {bare}", f"I call {bare}.", f"\u200b{bare}"]
    forms += [json.dumps([{"name": call.name, "arguments": dict(call.arguments)} for call in gold])]
    return [*(f"<think>Why.</think>\n{form}" for form in forms), calls, f"<think>{calls}"]
