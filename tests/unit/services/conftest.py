"""What the tests of services share."""

from __future__ import annotations

import time

import pytest


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that would wait and retry fails instead: "at once", on however busy a machine."""

    def sleep(seconds: float) -> None:
        raise AssertionError(f"a pause of {seconds} s")

    monkeypatch.setattr(time, "sleep", sleep)
