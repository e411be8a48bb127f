"""JSON that somebody else wrote is read, or refused in a sentence; a file is whole or absent."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.files import read_json, write_json


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "a JSON object is expected, not list"),
        (b"null", "a JSON object is expected, not NoneType"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
    ],
    ids=["empty", "cut", "list", "null", "bytes", "deep list", "deep object"],
)
def test_junk_is_refused_in_a_sentence(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=why) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_path_that_is_not_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "loop", tmp_path / "pipe", tmp_path / ("x" * 300), tmp_path / "file" / "below"):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be read"):
            read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing")


@given(content=st.binary(max_size=40))
def test_any_bytes_are_an_object_or_an_input_error(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "any.json"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert isinstance(read_json(path), dict)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    value = {"name": "Zoë \u2028", "half a pair": "\ud800", "nested": {"list": [1, None, 2.5]}}
    write_json(tmp_path / "folder" / "value.json", value)
    assert read_json(tmp_path / "folder" / "value.json") == value
