"""The questions: all of them read, samples stable, nothing imported, prompts complete."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from components.bfcl_eval import questions as module
from components.bfcl_eval.questions import load_questions
from components.errors import InputError
from components.evaluations.means import SIZES
from components.function_calls.prompt import ToolNames

ALL = tuple(SIZES)


@pytest.fixture(scope="module")
def everything():
    return load_questions(ALL)


def test_every_question_is_read_once(everything):
    assert Counter(question.category for question in everything) == SIZES
    assert len({question.id for question in everything}) == len(everything) == 3491
    assert all((question.gold is None) == ("relevance" in question.category) for question in everything)


def test_no_name_needs_mapping_back(everything):
    """The official tool decodes our answers as they are: the prompt must show BFCL's own names."""
    for question in everything:
        names = ToolNames(question.tools)
        for tool in question.tools:
            assert names.shown(tool.name) == tool.name
            assert all(names.shown_argument(tool.name, name) == name for name in tool.parameters["properties"])


def test_prompt_holds_question_system_message_and_tools(everything):
    for question in everything:
        prompt = question.prompt()
        text = json.dumps(prompt.messages, ensure_ascii=False)
        assert prompt.messages[-1]["role"] == "user"
        assert all(json.dumps(item.content, ensure_ascii=False)[1:-1] in text for item in question.messages)
        assert all(tool.name in prompt.messages[0]["content"] for tool in question.tools)
    with_system = [question for question in everything if question.messages[0].role == "system"]
    assert len(with_system) > 80
    assert all(item.messages[0].content in item.prompt().messages[0]["content"] for item in with_system)


def test_sample_is_stable_nested_and_moved_by_the_seed():
    small, large = load_questions(ALL, 4, seed=7), load_questions(ALL, 9, seed=7)
    ids = [question.id for question in small]
    assert Counter(question.category for question in small) == dict.fromkeys(ALL, 4)
    assert set(ids) < {question.id for question in large}
    assert [question.id for question in load_questions(ALL, 4, seed=7)] == ids
    assert [question.id for question in load_questions(ALL, 4, seed=8)] != ids
    # recorded once: a draw that moves between versions would make old and new evaluations incomparable
    assert [question.id for question in load_questions(("simple_python",), 4, seed=0)] == [
        "simple_python_46",
        "simple_python_86",
        "simple_python_201",
        "simple_python_255",
    ]
    reordered = load_questions(ALL[::-1], 4, seed=7)
    assert {question.id for question in reordered} == set(ids)


def test_a_sample_larger_than_the_category_takes_all_of_it():
    assert len(load_questions(("live_parallel", "live_relevance"), 1000)) == 32


@pytest.mark.parametrize("categories", [("simple_python", "simple_java"), ("nonsense",), (), ("multiple", "multiple")])
def test_wrong_categories_are_named(categories):
    with pytest.raises(InputError, match=r"bfcl_eval\.categories"):
        load_questions(categories)


def test_an_unknown_category_error_lists_the_allowed():
    with pytest.raises(InputError) as error:
        load_questions(("simple_pyton",))
    assert "simple_pyton" in str(error.value) and all(name in str(error.value) for name in ALL)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    module._package.cache_clear()
    try:
        with pytest.raises(InputError, match="pip install --no-deps bfcl-eval filelock"):
            load_questions(("simple_python",))
    finally:
        module._package.cache_clear()


def test_nothing_heavy_is_imported_and_no_folder_made(tmp_path):
    code = (
        "import sys; from components.bfcl_eval.questions import load_questions; load_questions(('multiple',));"
        "from components.bfcl_eval.evaluate import MODELS;from components.evaluations.tables import scores_table;"
        "assert not {'bfcl_eval', 'torch', 'transformers', 'matplotlib'} & set(sys.modules), sys.modules.keys();"
        "from components.bfcl_eval.grading import grade; grade(load_questions(('multiple',))[0], '[f(a=1)]');"
        "assert not {'torch', 'openai', 'bfcl_eval.constants.eval_config'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": ":".join(sys.path)})
    assert not list(tmp_path.iterdir())
