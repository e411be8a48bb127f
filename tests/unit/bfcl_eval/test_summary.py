"""The table that a run ends with."""

from __future__ import annotations

import pytest

from components.bfcl_eval.summary import summary_table
from components.errors import InputError
from components.evaluations.schema import write_evaluation
from tests.evaluation_support import evaluation

BASE = {"simple_python": "000", "live_simple": "000", "irrelevance": "111"}
TRAINED = {"simple_python": "110", "live_simple": "000", "irrelevance": "100"}


def test_a_column_for_each_model_and_both_headlines_apart(tmp_path):
    write_evaluation(tmp_path / "base", evaluation(BASE))
    write_evaluation(tmp_path / "egpo_rl", evaluation(TRAINED))
    columns, rows, note = summary_table(tmp_path)
    assert columns == ["right answers", "questions", "base", "EGPO"]
    names = [row[0].strip() for row in rows]
    assert names == ["BFCL: calls", "BFCL: no call fits", "simple_python", "live_simple", "irrelevance"]
    assert rows[0] == ["BFCL: calls", "6", "0.0 % [0, 39]", "33.3 % [10, 70]"]
    assert rows[1] == ["BFCL: no call fits", "3", "100.0 % [44, 100]", "33.3 % [6, 79]"]
    assert rows[2] == ["  simple_python", "3 of 400", "0.0 %", "66.7 %"]
    assert "Few questions" in note and "never calls is right wherever no call is" in note


def test_held_out_records_come_first_and_are_not_summed_up_with_bfcl(tmp_path):
    for name, marks in (("base", "0001"), ("egpo_rl", "0111")):
        write_evaluation(tmp_path / name, evaluation(BASE))
        write_evaluation(tmp_path / "own" / name, evaluation({"own_calls": marks, "own_no_call": "1"}))
    _, rows, _ = summary_table(tmp_path)
    assert [row[0] for row in rows[:3]] == ["held-out records: calls", "held-out records: no call fits", "BFCL: calls"]
    assert rows[0][2].startswith("25.0 %") and rows[0][3].startswith("75.0 %")
    assert rows[2][2].startswith("0.0 %")


def test_many_questions_need_no_note(tmp_path):
    marks = {"simple_python": "10" * 200, "irrelevance": "1" * 240}
    write_evaluation(tmp_path / "base", evaluation(marks))
    _, rows, note = summary_table(tmp_path)
    assert note == "" and rows[2][1] == "400"


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_broken_evaluation_folder_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "scores.json").write_text(content)
    with pytest.raises(InputError, match=str(tmp_path)):
        summary_table(tmp_path)
