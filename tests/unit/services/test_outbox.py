"""What waits for MLflow is read back from a stage folder, whatever is there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from components.services.outbox import STATE, Entry, Outbox

STORED = {"run_id": "one", "experiment": "callforge", "stage": "egpo_rl", "mlflow_run": "abc"}
ENTRIES = [
    Entry("metrics", [["loss", float("inf"), 1_700_000_000_000, 3]]),
    Entry("params", {"egpo_rl/steps": "5"}),
    Entry("tags", {"callforge.egpo_rl": "running"}),
    Entry("status", "FINISHED"),
    Entry("file", ["/runs/one/report.html", "egpo_rl"], failed=True),
    Entry("table", ["samples.json", {"columns": ["a"], "data": [[1]]}]),
]


def test_what_is_remembered_is_read_back(tmp_path: Path) -> None:
    Outbox(**STORED, sent=4, sending=6, time=7, entries=list(ENTRIES), folder=tmp_path).save()
    found = Outbox.read(tmp_path)
    assert found is not None and found.folder == tmp_path
    assert (found.mlflow_run, found.sent, found.sending, found.time) == ("abc", 4, 6, 7)
    assert [vars(entry) for entry in found.entries] == [vars(entry) for entry in ENTRIES]


@pytest.mark.parametrize(
    "state",
    [
        [],
        3,
        {},
        STORED | {"sent": "many", "entries": []},
        STORED | {"entries": 3},
        STORED | {"entries": ["x"]},
        STORED | {"entries": [{"kind": "metrics", "value": 3}]},
        STORED | {"entries": [{"kind": "params", "value": ["x"]}]},
        STORED | {"entries": [{"kind": "file", "value": ["x"]}]},
        STORED | {"entries": [{"kind": "client", "value": "x"}]},
    ],
)
def test_what_others_left_is_nothing_to_send(state: Any, tmp_path: Path) -> None:
    (tmp_path / STATE).write_text(json.dumps(state))
    assert Outbox.read(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[" * 100_000])
def test_what_is_no_json_is_nothing_to_send(content: bytes, tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(content)
    assert Outbox.read(tmp_path) is None


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / STATE)
    assert Outbox.read(tmp_path) is None
