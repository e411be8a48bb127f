"""Grading: the official checker behind our adapter gives the gold its due, and every wrong answer a reason."""

from __future__ import annotations

from collections import Counter

import pytest

from components.bfcl_eval.grading import grade
from components.bfcl_eval.questions import Question, load_questions
from components.evaluations.means import SIZES
from components.function_calls.prompt import ToolNames, render_calls

# Gold answers that the official checker refuses, for faults of the gold itself: an argument the schema lacks, or a
# required one that the gold leaves out.
REFUSED = {
    "parallel_multiple_12",
    "parallel_multiple_26",
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    "live_multiple_507-149-4",
    "live_multiple_862-181-3",
    "live_multiple_964-207-0",
}


@pytest.fixture(scope="module")
def everything():
    return load_questions(tuple(SIZES))


def test_gold_is_right(everything, gold_calls):
    wrong, right = set(), Counter()
    for question in everything:
        if question.gold is not None:
            verdict = grade(question, render_calls(gold_calls(question), ToolNames(question.tools)))
            right[question.category] += verdict.right
            assert verdict.right == (verdict.reason == "")
            if not verdict.right:
                wrong.add(question.id)
    assert wrong == REFUSED
    assert right == {
        "simple_python": 400,
        "multiple": 200,
        "parallel": 200,
        "parallel_multiple": 198,
        "live_simple": 256,
        "live_multiple": 1050,
        "live_parallel": 16,
        "live_parallel_multiple": 24,
    }


def test_silence_is_right_only_where_no_call_is(everything):
    for text in ("", "[]", "None of the functions can answer this request.", "I can't: f(a=1"):
        assert {question.category for question in everything if grade(question, text).right} == {
            "irrelevance",
            "live_irrelevance",
        }


def test_any_call_is_right_only_where_relevance_is_asked(everything):
    right = {question.category for question in everything if grade(question, "[some_call(x=1)]").right}
    assert right == {"live_relevance"}


QUESTION = Question(
    "simple_python_x",
    "simple_python",
    (),
    (),
    [
        {
            "name": "m.f",
            "description": "",
            "parameters": {
                "type": "dict",
                "properties": {
                    "n": {"type": "integer"},
                    "x": {"type": "float"},
                    "s": {"type": "string"},
                    "l": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["n"],
            },
        }
    ],
    [{"m.f": {"n": [3], "x": [1.5, 2.0, ""], "s": ["New York", ""], "l": [["a", "b"], ""]}}],
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[m.f(n=3)]", ""),
        ("m.f(n=3, x=2)", ""),
        ("```[m.f(n=3, s='new york', l=['a', 'b'])]```", ""),
        ("[m.f(n='3')]", "type_error:simple"),
        ("[m.f(n=4)]", "value_error:others"),
        ("[m.f(n=True)]", "type_error:simple"),
        ("[m.f(n=3, s='Rome')]", "value_error:string"),
        ("[m.f(n=3, l=['b', 'a'])]", "value_error:list/tuple"),
        ("[m.f(n=3, l=[1])]", "value_error:list/tuple"),
        ("[m.f(n=3, l='a')]", "type_error:simple"),
        ("[m.f(x=1.5)]", "missing_required"),
        ("[m.f(n=3, z=1)]", "unexpected_param"),
        ("[f(n=3)]", "wrong_func_name"),
        ("[m.f(n=3), m.f(n=3)]", "wrong_count"),
        ("[m.f(3)]", "missing_required"),
        ("[m.f(n=1+2)]", ""),
        ("[m.f(n=price*2)]", "no_call:not_a_literal"),
        ("[m.f(n=3, x=" + "9" * 400 + ")]", "checker_failed:OverflowError"),
        ("There is no such function.", "no_call:not_a_list"),
        ("[m.f(n=3", "no_call:syntax"),
        ("[]", "no_call:empty_list"),
    ],
)
def test_reasons(text, reason):
    verdict = grade(QUESTION, text)
    assert (verdict.right, verdict.reason) == (reason == "", reason)


def test_a_parallel_answer_names_what_is_wrong_with_the_call_left_over():
    (name,) = QUESTION.gold[0]  # type: ignore[index]  # it has a key
    gold = [{name: {"n": [3]}}, {name: {"n": [5]}}]
    question = Question("parallel_x", "parallel", (), (), QUESTION.functions, gold)
    assert grade(question, "[m.f(n=5), m.f(n=3)]").right
    assert grade(question, "[m.f(n=3), m.f(n=6)]").reason == "value_error:others"
    assert grade(question, "[m.f(n=7), m.f(n=6)]").reason == "cannot_find_match"
    assert grade(question, "[m.f(n=3)]").reason == "wrong_count"


def test_grading_leaves_no_trace(everything, gold_calls):
    """The checker's work on a question must not change the next model's verdict."""
    before = [repr((question.functions, question.gold)) for question in everything]
    for question in everything:
        if question.gold is not None:
            grade(question, render_calls(gold_calls(question), ToolNames(question.tools)))
    assert [repr((question.functions, question.gold)) for question in everything] == before
