"""Completions a second and core that the reward parses and matches, beside the official BFCL checker on the same calls.

    python -m benchmarks.reward            about 30 seconds
    python -m benchmarks.reward --quick    about 5 seconds

The completions are turns a policy writes for the records of the built-in sample, or of `--records FILE`: half are
right, the others have a wrong value, a wrong name, a call missing, no call, or a broken frame. The map of tool names is
built once a record, as in training, where a group of rollouts shares it. The official ast_checker gets the calls as
parsed objects and decodes nothing: its peer is `match` only. Records whose tools its type names cannot express are left
out on both sides. CPU seconds of one process, the best of several passes; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data_refine.sample_source import sample_records
from components.function_calls.formats.reader import read_records
from components.function_calls.match import match
from components.function_calls.parse import parse_turn
from components.function_calls.prompt import THINK_CLOSE, ToolNames, render_turn
from components.function_calls.record import Call, Record, Tool

TARGET = 20_000  # completions a second
THOUGHT = "The user asks for {count} thing(s). {name} takes exactly that, and each argument is named in the request."


@dataclass(frozen=True, slots=True)
class Completion:
    """A turn's text with what it is judged by; `functions` and `gold` are the same in the official checker's form."""

    text: str
    record: Record
    names: ToolNames
    functions: list[dict[str, Any]]
    gold: list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer passes")
    parser.add_argument("--records", metavar="FILE", type=Path, help="of any layout that callforge reads")
    arguments = parser.parse_args()
    passes = 3 if arguments.quick else 20
    completions = make_completions(random.Random(0), arguments.records)
    turns = [parse_turn(completion.text, completion.names) for completion in completions]
    judged = [(turn.calls, completion) for turn, completion in zip(turns, completions, strict=True) if turn.calls]
    checker = official_checker()

    def reward(completion: Completion) -> bool:
        turn = parse_turn(completion.text, completion.names)
        answers = completion.record.answers
        return turn.format_ok and turn.calls is not None and match(turn.calls, answers, completion.record.tools).ok

    def check(item: tuple[tuple[Call, ...], Completion]) -> bool:
        calls, completion = item
        shaped = [{call.name: call.arguments} for call in calls]
        return bool(checker(completion.functions, shaped, completion.gold)["valid"])

    def ours(item: tuple[tuple[Call, ...], Completion]) -> bool:
        return match(item[0], item[1].record.answers, item[1].record.tools).ok

    rates = {
        "parse and match": rate(reward, completions, passes),
        "parse": rate(lambda completion: parse_turn(completion.text, completion.names), completions, passes),
        "match": rate(ours, judged, passes),
        "official ast_checker": rate(check, judged, passes),
    }
    print(f"{len(completions):,} completions of {statistics.mean(len(c.text) for c in completions):.0f} characters")
    print(f"{'step':<24}{'us each':>10}{'a second':>12}")
    for step, value in rates.items():
        print(f"{step:<24}{1e6 / value:>10.1f}{value:>12,.0f}")
    differ = sum(ours(item) != check(item) for item in judged)
    print(f"verdicts that differ from the official checker: {differ} of {len(judged):,}")
    figures = {
        "source": arguments.records.name if arguments.records else "sample",
        "completions": len(completions),
        "completions_per_s": round(rates["parse and match"]),
        "target_per_s": TARGET,
        "parse_per_s": round(rates["parse"]),
        "match_per_s": round(rates["match"]),
        "official_checker_per_s": round(rates["official ast_checker"]),
        "verdicts_differ": differ,
    }
    print(json.dumps(figures))


def rate(work: Callable[[Any], Any], items: list[Any], passes: int) -> float:
    """Items a CPU second: the best pass, since other load on the machine only ever slows one down."""
    best = float("inf")
    for _ in range(passes):
        started = time.process_time()
        for item in items:
            work(item)
        best = min(best, time.process_time() - started)
    return len(items) / best


def make_completions(choose: random.Random, source: Path | None) -> list[Completion]:
    if source:
        with source.open("rb") as stream:
            records = [record for record in read_records(stream, str(source)) if isinstance(record, Record)]
    else:
        records = list(sample_records(2000, seed=0))
    completions = []
    for record in records:
        try:
            functions = [official_function(tool) for tool in record.tools]
        except KeyError:  # a type that the checker has no name for
            continue
        if record.answers:
            names = ToolNames(record.tools)
            gold = [{call.name: {key: [accepted(v)] for key, v in call.arguments.items()}} for call in record.answers]
            completions.append(Completion(written(record, names, choose), record, names, functions, gold))
    return completions


def written(record: Record, names: ToolNames, choose: random.Random) -> str:
    """A turn for the record: right, or wrong in one of the usual ways."""
    calls = list(record.answers)
    kind = choose.choices(
        ("right", "wrong_value", "wrong_name", "missing_call", "no_call", "broken"), weights=(50, 20, 10, 5, 5, 10)
    )[0]
    first = calls[0]
    if kind == "wrong_value":
        calls[0] = Call(first.name, {key: another(value) for key, value in first.arguments.items()})
    elif kind == "wrong_name":
        calls[0] = Call("no_such_tool", first.arguments)
    elif kind == "missing_call" and len(calls) > 1:
        calls.pop()
    thought = record.cot or THOUGHT.format(count=len(calls), name=first.name)
    text = render_turn(thought, () if kind == "no_call" else calls, None, names).text
    return text.replace(THINK_CLOSE, "", 1) if kind == "broken" else text


def another(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"not {value}"
    return value + 1


def official_function(tool: Tool) -> dict[str, Any]:
    """The tool in BFCL's dialect.

    Raises:
        KeyError: a type without a name there.
    """
    names = {"string": "string", "integer": "integer", "number": "float", "boolean": "boolean", "object": "dict"}
    properties = {}
    for name, schema in tool.parameters["properties"].items():
        if schema["type"] == "array":
            properties[name] = {"type": "array", "items": {"type": names[schema["items"]["type"]]}}
        else:
            properties[name] = {"type": names[schema["type"]]}
    required = tool.parameters.get("required", [])
    return {"name": tool.name, "parameters": {"type": "dict", "properties": properties, "required": required}}


def accepted(value: Any) -> Any:
    """A gold value as the checker lists it: the values of an object are lists of accepted values themselves."""
    if isinstance(value, dict):
        return {key: [item] for key, item in value.items()}
    if isinstance(value, list):
        return [accepted(item) for item in value]
    return value


def official_checker() -> Callable[[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]], dict[str, Any]]:
    """bfcl-eval's ast_checker; its model registry, which imports every API client, is replaced by a stub."""
    os.environ.setdefault("BFCL_PROJECT_ROOT", tempfile.mkdtemp())  # importing makes folders there
    registry = types.ModuleType("bfcl_eval.constants.model_config")
    keep_dots = types.SimpleNamespace(underscore_to_dot=False)
    vars(registry)["MODEL_CONFIG_MAPPING"] = {"callforge": keep_dots}
    sys.modules[registry.__name__] = registry
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def check(functions: Any, calls: Any, gold: Any) -> dict[str, Any]:
        result: dict[str, Any] = ast_checker(functions, calls, gold, Language.PYTHON, "parallel_multiple", "callforge")
        return result

    return check


if __name__ == "__main__":
    main()
