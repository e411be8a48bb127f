"""Files that are either whole or absent, their hashes, and JSON that somebody else may have written.

Nothing here knows of S3.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from components.errors import InputError

COMPRESSION = 3  # of gzip; 6 takes three times as long for a file 14 % smaller
LARGEST_JSON = 256 * 2**20  # bytes; a manifest of a million files


def expand_home(path: str) -> Path:
    """`path` with `~` or `~user` as the home it means; as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser raises for an unknown user


def exists(path: Path) -> bool:
    """Whether something is there: nothing is under a name that is too long for the file system or has a zero byte."""
    return os.path.exists(path)  # noqa: PTH110  # Path.exists raises for such a name


def is_folder(path: Path) -> bool:
    """Whether a folder is there, under whatever name."""
    return os.path.isdir(path)  # noqa: PTH112  # as above


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file beside `path` that takes its name when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")  # JSON's own escape
        with os.fdopen(handle, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def gzip_lines(path: Path) -> Iterator[IO[str]]:
    """A gzip text file, whole or absent, of equal bytes for equal content."""
    with (
        atomic_write(path, "wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed,
        io.TextIOWrapper(packed, "utf-8", errors="surrogatepass", newline="\n", write_through=False) as text,
    ):
        yield text


def lock_within(file: IO[Any], seconds: float) -> bool:
    """Take the exclusive lock of an open file, waiting at most `seconds`; whether it was taken. Closing frees it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a small file that a person or another program may have changed.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be read, or holds something else; the text says why.
    """
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):  # to open a pipe could wait for ever
            raise InputError(f"{path}: cannot be read (not a file)")
        if found.st_size > LARGEST_JSON:
            raise InputError(f"{path}: larger than {LARGEST_JSON:,} bytes, so not a file of callforge")
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not JSON: its bytes are not UTF-8 text") from None
    except RecursionError:
        raise InputError(f"{path}: not a file of callforge: its JSON is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: a JSON object is expected, not {type(value).__name__}")
    return value


def read_json_lines(path: Path) -> list[Any]:
    """The values of a JSONL file. Only a newline ends a line: str.splitlines would cut texts at U+2028 and the like.

    Raises:
        OSError, ValueError: the file cannot be read, or a line is not JSON.
    """
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file if line.strip()]


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
