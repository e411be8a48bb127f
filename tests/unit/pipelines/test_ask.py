"""What `callforge ask` reads and prints; a model is asked in tests/services/test_registration.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import InputError
from components.function_calls.parse import parse_turn
from components.function_calls.prompt import ToolNames
from components.language_models.answer import Answer
from components.stages.folder import Config, Manifest, write_config
from pipelines.ask import lines_of, read_tools_file
from pipelines.named_models import find_model

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "Get-Time", "description": "The time.", "parameters": PARAMETERS}
OPENAI = {"type": "function", "function": TOOL}


@pytest.fixture
def tools_file(tmp_path: Path) -> Path:
    return tmp_path / "tools.json"


@pytest.mark.parametrize("value", [[OPENAI], {"tools": [OPENAI]}, OPENAI, [TOOL], json.dumps([OPENAI])], ids=str)
def test_tools_are_read_in_every_shape(tools_file: Path, value: Any) -> None:
    tools_file.write_text(json.dumps(value))
    [tool] = read_tools_file(tools_file)
    assert (tool.name, tool.description, tool.parameters["required"]) == ("Get-Time", "The time.", ["city"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "no tool in it"),
        ('{"a": 1,}', "line 1 column 9"),
        ('[{"description": "x"}]', "a tool needs a name"),
        ("3", "a list is expected"),
        (json.dumps([TOOL, OPENAI]), "Get-Time is there more than once"),
        (b"\xff", "no UTF-8"),
    ],
)
def test_a_file_without_usable_tools_is_refused_by_name(tools_file: Path, text: str | bytes, why: str) -> None:
    tools_file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"tools.json: .*{why}"):
        read_tools_file(tools_file)


def test_of_a_run_the_model_trained_last_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / ".callforge" / "runs" / "first"
    for stage in ("sft_warmup", "egpo_rl"):
        (run / stage).mkdir(parents=True)
    (run / "run.json").write_text("{}")
    with pytest.raises(InputError, match="has trained no model yet; `callforge run --run-id first` goes on"):
        find_model("first")
    _finish(run / "sft_warmup", content="warm", inputs={"records": "data"})
    assert find_model("first") == find_model(str(run)) == ".callforge/runs/first/sft_warmup/model"
    _finish(run / "egpo_rl", content="trained", inputs={"records": "data", "model": "warm"})
    assert find_model("first") == ".callforge/runs/first/egpo_rl/model"
    _finish(run / "sft_warmup", content="warmer", inputs={"records": "data"})  # done again, and EGPO not yet
    assert find_model("first") == ".callforge/runs/first/sft_warmup/model"
    assert find_model("org/name") == "org/name"


def _finish(folder: Path, content: str, inputs: dict[str, str]) -> None:
    write_config(folder, Config(stage=folder.name, settings={}, identity={"inputs": inputs}))
    manifest = Manifest(stage=folder.name, work="", content=content, files={}, metrics={})
    (folder / "manifest.json").write_text(manifest.model_dump_json())


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            '<think>Rome.</think>\n[Get_Time(city="Rome"), Get_Time(town=1), other()]',
            [
                ("thought", "Rome."),
                ("call", 'Get-Time {"city": "Rome"}'),
                ("call", 'Get-Time {"town": 1}'),
                ("", "unknown_argument: Get-Time has no argument 'town'"),
                ("call", "other {}"),
                ("", "no such tool was offered; those offered are Get-Time"),
            ],
        ),
        ("<think>No.</think>\nI cannot.", [("thought", "No."), ("text", "I cannot.")]),
        ("Hello", [("answer", "Hello"), ("", "not the form that callforge trains: no thought")]),
    ],
)
def test_an_answer_is_shown_with_what_is_wrong_with_it(
    tools_file: Path, text: str, lines: list[tuple[str, str]]
) -> None:
    tools_file.write_text(json.dumps([OPENAI]))
    tools = read_tools_file(tools_file)
    found = Answer(text, parse_turn(text, ToolNames(tools)), finished=True)
    assert [(line.name, line.text) for line in lines_of(found, tools)] == lines
