"""Adapters as vLLM wants them: every version a new directory with a new name.

vLLM's prefix cache keys on an adapter's name and path, so weights loaded again from the same place would be answered
from old keys and values. Nothing is ever merged into the base weights: rounding to bfloat16 would lose most of a small
update.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from components.errors import InputError
from components.files import read_json

FILES = ("adapter_config.json", "adapter_model.safetensors")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM serves


def publish_adapter(source: Path, root: Path, version: int) -> Path:
    """Copy the adapter to a directory of its own under `root`, named by its version; complete or not there.

    The name ends in random letters: a resumed run publishes the same version again under a new name.

    Raises:
        InputError: `source` holds no adapter, or one of a rank that vLLM does not serve.
    """
    rank = None
    with suppress(FileNotFoundError):
        rank = read_json(source / FILES[0]).get("r")
    if rank is None:
        raise InputError(f"{source}: there is no LoRA adapter ({FILES[0]} is missing, or names no rank)")
    if rank not in RANKS:
        raise InputError(f"adapter.rank: vLLM serves ranks {', '.join(map(str, RANKS))}, not {rank}")
    root.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix=f"policy-v{version}-", dir=root))
    partial = target / ".partial"
    partial.mkdir()
    for name in FILES:
        shutil.copyfile(source / name, partial / name)
    for name in reversed(FILES):  # the configuration last: a directory without it is not an adapter
        (partial / name).rename(target / name)
    partial.rmdir()
    target.chmod(0o755)  # the server runs as another user
    return target
