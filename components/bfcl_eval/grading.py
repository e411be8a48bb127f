"""Is an answer right? Decided by bfcl-eval's own ast_checker; irrelevance and relevance by whether there is a call.

The checker reads one flag of the package's model registry, which imports every API client (5 s, 270 MB): the registry
is replaced by a stub before the checker is imported. Java and JavaScript are not graded.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from components.bfcl_eval.decode import decode
from components.bfcl_eval.questions import Question, evaluator
from components.function_calls.parse import parse_calls
from components.function_calls.prompt import ToolNames

# A model name the official tool knows, with the plain decoder for prompting models and dots kept in function names.
# It appears in paths and commands of the official tool and says nothing about the model evaluated.
OFFICIAL_NAME = "Qwen/Qwen3-4B-Instruct-2507"


@dataclass(frozen=True, slots=True)
class Grade:
    """`reason` is "" when right, else a code: the checker's error type, or why there is no call."""

    right: bool
    reason: str


def grade(question: Question, answer: str) -> Grade:
    """Grade the text after the thought. Never raises on any text."""
    calls = decode(answer)
    if question.category.endswith("irrelevance"):
        return Grade(False, "called_though_irrelevant") if calls else Grade(True, "")
    if not calls:
        _, why = parse_calls(answer, ToolNames(question.tools))
        return Grade(False, f"no_call:{why or 'not_decoded'}")
    if question.category.endswith("relevance"):
        return Grade(True, "")
    checker, language = _checker()
    try:
        verdict = checker(question.functions, calls, question.gold, language, question.category, OFFICIAL_NAME)
    except Exception as error:  # written for well-formed output, e.g. float() of a huge integer overflows
        return Grade(False, f"checker_failed:{type(error).__name__}")
    if verdict["valid"]:
        return Grade(True, "")
    return Grade(False, _reason(verdict))


def _reason(verdict: dict[str, Any]) -> str:
    """The checker's error type; where one call of several found no partner, what is wrong with it."""
    reason = str(verdict.get("error_type"))
    left = [details for item in verdict["error"] if isinstance(item, dict) for details in item.values()]
    if len(left) == 1:
        reason = str(left[0]["sub_error_type"])
    checker, _, code = reason.partition(":")
    return code if "function_checker" in checker else reason


@cache
def _checker() -> tuple[Callable[..., dict[str, Any]], Any]:
    evaluator()  # says how to install the package where it is missing
    name = "bfcl_eval.constants.model_config"
    if name not in sys.modules:
        registry = types.ModuleType(name)
        keep_dots = types.SimpleNamespace(underscore_to_dot=False)
        vars(registry)["MODEL_CONFIG_MAPPING"] = {OFFICIAL_NAME: keep_dots}
        sys.modules[name] = registry
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    return ast_checker, Language.PYTHON
