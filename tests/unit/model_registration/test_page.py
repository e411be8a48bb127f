"""The page of a registration: what became of the weights, how good they are, where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.model_registration.page import write_page

MERGED = {
    "model_name": "caller",
    "version": None,
    "alias": None,
    "source": "/runs/1/model",
    "manifest_sha256": "ab" * 32,
    "files": {"model.safetensors": {"size": 2_500_000, "sha256": "cd" * 32}},
    "tags": {"callforge.base_model": "<b>base</b>"},
}
REGISTERED = MERGED | {
    "version": 3,
    "alias": "candidate",
    "page": "http://mlflow/#/models/caller/versions/3",
    "run_page": "http://mlflow/#/runs/1",
    "tags": {
        "callforge.stage": "egpo_rl",
        "bfcl.mean_calls": "0.2500",
        "bfcl.mean_irrelevance": "0.8333",
        "own.calls": "0.5000",
    },
}


def page(folder: Path, registration: dict[str, Any]) -> str:
    write_page(folder / "report.html", registration)
    return (folder / "report.html").read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ")


def test_a_version_is_shown_with_its_figures_and_places(tmp_path):
    html = page(tmp_path, REGISTERED)
    assert "Version 3 of caller was registered as candidate, 2.5 MB; own calls right 50.0 %, BFCL calls right" in html
    assert all(text in html for text in ("/runs/1/model", "cd" * 32, 'href="http://mlflow/#/models/caller/versions/3"'))
    places = html.partition("<h2>Where it comes from</h2>")[2].partition("</table>")[0]
    assert "callforge.stage" in places and "mean_calls" not in places and "own.calls" not in places


def test_weights_that_were_not_registered_say_so(tmp_path):
    html = page(tmp_path, MERGED)
    assert "merged and not registered" in html and "it was not evaluated" in html
    assert "&lt;b&gt;base&lt;/b&gt;" in html and "In MLflow" not in html
