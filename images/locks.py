"""The three locks, made by one command: `make lock`. It resolves pyproject.toml and a requirements.in with uv and
writes every version, for the images with the hashes of its files.

Versions stay as they are while they fit; `make lock OPTIONS=--upgrade` (or --upgrade-package NAME) takes newer ones.
Above each lock stands a digest of what it was made from, so that a test can tell a stale one without an index.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_EVERYWHERE = ("--python-version", "3.11", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet")
_IMAGE = ("--python-platform", "x86_64-manylinux_2_28", "--generate-hashes", "--excludes", "images/excluded.txt")


@dataclass(frozen=True)
class Lock:
    """A lock file, what is added to pyproject.toml's dependencies for it, and how it is resolved."""

    path: str
    inputs: tuple[str, ...]  # the first is handed to uv
    extras: tuple[str, ...]
    options: tuple[str, ...]
    about: str


LOCKS = (
    Lock(
        "constraints.txt",
        ("requirements.in",),
        ("train", "pipeline", "tracking", "local", "test"),
        ("--universal",),
        "The development environment. No hashes: torch may come as the build for CPUs.",
    ),
    Lock(
        "images/light/requirements.txt",
        ("images/light/requirements.in", "images/excluded.txt"),
        ("pipeline", "tracking"),
        _IMAGE,
        "The light image: Python 3.11, Linux x86_64. Installed by `pip install --no-deps --require-hashes`.",
    ),
    Lock(
        "images/train/requirements.txt",
        ("images/train/requirements.in", "images/excluded.txt"),
        ("train", "pipeline", "tracking"),
        _IMAGE,
        "The train image: Python 3.11, Linux x86_64, CUDA 13. Installed by `pip install --no-deps --require-hashes`.",
    ),
)


def digest(lock: Lock, root: Path = ROOT) -> str:
    """sha256 of everything that decides the lock: dependencies, extras, uv's settings, the inputs, uv's options."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    project = pyproject["project"]
    decisive = [
        project["dependencies"],
        [project["optional-dependencies"][extra] for extra in lock.extras],
        pyproject["tool"]["uv"],
        [(root / path).read_text("utf-8") for path in lock.inputs],
        [*_EVERYWHERE, *lock.options],
    ]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def write(lock: Lock, options: list[str]) -> None:
    """Resolve and write the file; the versions in it are kept where they fit."""
    extras = [option for extra in lock.extras for option in ("--extra", extra)]
    command = ["uv", "pip", "compile", "pyproject.toml", lock.inputs[0], *extras, *_EVERYWHERE, *lock.options, *options]
    subprocess.run([*command, "--output-file", lock.path], cwd=ROOT, check=True)
    path = ROOT / lock.path
    header = f"# {lock.about}\n# Made by `make lock` from {', '.join(('pyproject.toml', *lock.inputs))}; do not edit.\n"
    path.write_text(f"{header}# inputs sha256:{digest(lock)}\n{path.read_text('utf-8')}", "utf-8")


def main() -> None:
    """Write all; arguments are handed to uv."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for lock in LOCKS:
        try:
            write(lock, sys.argv[1:])
        except subprocess.CalledProcessError as error:
            sys.exit(f"{lock.path}: not written; uv ended with {error.returncode}")
        print(f"wrote {lock.path}")


if __name__ == "__main__":
    main()
