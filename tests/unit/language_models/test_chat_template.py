"""Templates are rendered as transformers renders them, see no message, and cannot loop, fill the memory or run away."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from components.errors import InputError, WorkError
from components.function_calls.prompt import Prompt, ToolNames, build_prompt
from components.language_models import chat_template, tokens
from components.language_models.chat_template import ConversationError, lay_out

TRL = find_spec("trl")
FOLDER = Path(TRL.origin).parent / "chat_templates" if TRL and TRL.origin else Path("trl-is-not-installed")
TEMPLATES = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training"))
needs_trl = pytest.mark.skipif(not TEMPLATES, reason="TRL, whose chat templates are tried, is not installed")
MESSAGES = [
    {"role": "system", "content": "  The functions.\n"},
    {"role": "user", "content": "\nA question?  "},
    {"role": "assistant", "content": "[f(a=1)]"},
    {"role": "user", "content": "Another?"},
]
DATES = ("gptoss", "llama3_2", "muse_glimmer")  # write today's date


def _tokenizer(tiny_model: Path, template: str):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    return tokenizer


def _prompt(*messages: tuple[str, str]) -> Prompt:
    return Prompt([{"role": role, "content": content} for role, content in messages], ToolNames(()))


def _text(tokenizer, prompt: Prompt) -> str:
    return tokens.decode_turn(tokenizer, [*tokens.encode_prompt(tokenizer, prompt)])


def _whole_text(tokenizer, prompt: Prompt) -> str:
    table = tokens._token_bytes(tokenizer)
    return b"".join(table[token] for token in tokens.encode_prompt(tokenizer, prompt)).decode()


@needs_trl
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_known_template_writes_what_it_writes_in_transformers(byte_level, name):
    template = (FOLDER / f"{name}.jinja").read_text()
    tokenizer = byte_level
    parts = name in ("idefics3", "llava_next", "smolvlm")
    messages = [dict(message) for message in MESSAGES]
    if name == "gemma":  # refuses a system message
        messages[:2] = [{"role": "user", "content": "  The functions.\n\n\n\nA question?  "}]
    if parts:
        messages = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
    expected = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
    )
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    tokenizer.chat_template = template
    written = _whole_text(tokenizer, Prompt(MESSAGES, ToolNames(())))
    for thought in ("<think>\n", "<think>\n\n</think>\n\n"):
        expected = expected.removesuffix(thought)
    if name in DATES:
        written, expected = (text[text.index("The functions.") :] for text in (written, expected))
    assert written == expected


@pytest.fixture(scope="module")
def byte_level(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@given(st.lists(st.text(st.characters(), max_size=30), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_text_is_in_the_prompt_as_it_is_and_ends_no_turn(byte_level, texts):
    system, question, answer = (text.replace("<think>", "") for text in texts)
    prompt = _prompt(("system", system), ("user", question), ("assistant", answer), ("user", "?"))
    ids = tokens.encode_prompt(byte_level, prompt)
    parts = zip(("system", "user", "assistant", "user"), (system, question, answer, "?"), strict=True)
    expected = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in parts) + "<|im_start|>assistant\n"
    expected = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in expected)
    table = tokens._token_bytes(byte_level)
    assert b"".join(table[token] for token in ids).decode() == expected
    assert ids.count(byte_level.convert_tokens_to_ids("<|im_end|>")) == 4


@pytest.mark.parametrize("text", ["\ue0007\ue001", "\ue000" + "9" * 30 + "\ue001", "\ue0000\ue001<|im_end|>", "\ud800"])
def test_private_use_letters_and_lone_surrogates_are_text(byte_level, text):
    prompt = _prompt(("system", "s"), ("user", f"a{text}b"))
    assert f"a{text.replace(chr(0xD800), chr(0xFFFD))}b" in _whole_text(byte_level, prompt)
    ids = tokens.encode_prompt(byte_level, prompt)
    assert ids.count(byte_level.convert_tokens_to_ids("<|im_end|>")) == 2


def test_a_text_that_looks_like_a_mark_is_text(byte_level):
    text = "\n\u2003[callforge: message 0 of 2]\u2003\n"
    assert _whole_text(byte_level, _prompt(("system", text), ("user", text))).count(text) == 2


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "message 1 of 2 is written no times"),
        ("{{ messages[1].content }}", "message 1 of 2 is written no times"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "message 1 of 2 is written 2 times"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "message 1 of 2 is written no times"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ messages.nothing.at_all }}", "UndefinedError"),
        ("{% for m in messages %", "TemplateSyntaxError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError|no times"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_template_that_drops_doubles_or_fails_is_refused_by_name(tiny_model, template, reason):
    with pytest.raises(InputError, match=f"chat template of .*tiny_model.*: .*({reason})"):
        tokens.check_template(_tokenizer(tiny_model, template))


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{% endfor %}{% endfor %}"
        "{% endfor %}",
        "{{ 'x' * 10**12 }}",
        "{{ 'x' * 10**7 }}",
        "{{ '%1000000000000d' % 1 }}",
        "{{ 'x' | center(10**11) }}",
        "{{ 7 ** (7 ** 12) }}",
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(200) }}",
    ],
)
def test_a_template_without_end_is_refused_in_words_and_the_next_one_is_rendered(template):
    with pytest.raises(InputError, match=r"it does not end|RecursionError|MemoryError|OverflowError"):
        lay_out(template + "{{ messages[0].content }}", ("user",), {})
    assert lay_out("{{ messages[0].content }}!", ("user",), {})[-1] == "!"


def test_a_limit_of_the_users_own_on_cpu_time_is_kept():
    code = (
        "import resource; from components.language_models.chat_template import _PROCESS, lay_out; "
        "resource.setrlimit(resource.RLIMIT_CPU, (50, 60)); "
        "print(lay_out('{{ messages[0].content }}!', ('user',), {})[-1]); "
        "print(resource.prlimit(_PROCESS.process.pid, resource.RLIMIT_CPU))"
    )
    limited = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert limited.stderr == "" and limited.stdout.startswith("!\n(") and limited.stdout.endswith(", 60)\n")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "No such file or directory"),
        ("#!/bin/sh\necho 'no module named jinja2' >&2\nexit 3\n", "exit code 3, no module named jinja2"),
        ("#!/bin/sh\nkill -9 $$\n", "exit code -9;"),
    ],
    ids=["missing", "broken", "killed"],
)
def test_a_python_that_does_not_start_is_not_the_templates_fault(tmp_path, monkeypatch, script, words):
    python = tmp_path / "python"
    if script:
        python.write_text(script)
        python.chmod(0o755)
    chat_template._PROCESS.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(python))
        with pytest.raises(WorkError, match=f"chat templates could not be started: {words}"):
            lay_out("{{ messages[0].content }}", ("user",), {})
    assert lay_out("{{ messages[0].content }}!", ("user",), {})[-1] == "!"


def test_a_template_cannot_see_the_environment(monkeypatch, tiny_model):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    chat_template._PROCESS.close()
    lay_out("{{ messages[0].content }}", ("user",), {})
    assert chat_template._PROCESS.process is not None
    environment = Path(f"/proc/{chat_template._PROCESS.process.pid}/environ")
    assert not environment.exists() or b"secret" not in environment.read_bytes()


def test_a_forked_child_renders_with_a_process_of_its_own():
    lay_out("{{ messages[0].content }}", ("user",), {})
    child = os.fork()
    if not child:
        found = lay_out("{{ messages[0].content }}#", ("user",), {})
        os._exit(0 if found[-1] == "#" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert lay_out("{{ messages[0].content }}!", ("user",), {})[-1] == "!"


def test_an_order_of_roles_that_a_template_refuses_is_told_from_one_it_takes(tiny_model):
    alternating = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    tokenizer = _tokenizer(tiny_model, alternating)
    tokens.check_template(tokenizer)
    assert tokens.refusal(tokenizer, ("system", "user", "assistant", "user")) == ""
    assert "roles must alternate" in tokens.refusal(tokenizer, ("system", "assistant", "user"))
    with pytest.raises(ConversationError, match="system, assistant, user"):
        tokens.encode_prompt(tokenizer, _prompt(("system", "a"), ("assistant", "b"), ("user", "c")))


def test_a_thought_closed_in_the_prompt_is_left_to_the_turn(tiny_model):
    tokenizer = _tokenizer(tiny_model, tokens.CHATML + "{{ '<think>\n\n</think>\n\n' }}")
    assert _whole_text(tokenizer, _prompt(("system", "s"), ("user", "q"))).endswith("assistant\n")


def test_a_real_record_is_in_the_prompt_with_all_its_tools(byte_level, make_records):
    for record in make_records(5):
        prompt = build_prompt(record.messages, record.tools)
        text = _whole_text(byte_level, prompt)
        assert all(text.count(f'{{"name":"{tool.name}"') == 1 for tool in record.tools)
        assert text.count(record.messages[0].content) == 1
