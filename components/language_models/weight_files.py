"""The weight files of a model directory: what their headers say, before anything is loaded or built.

Nothing here imports torch or transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.files import read_json

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
Shapes = dict[str, tuple[int, ...]]

_LAYERS = re.compile(r"(num_.*layers|.*_layers|n_layers?)")
_WIDTHS = re.compile(r"(.*hidden_size|.*intermediate_size|vocab_size|(.*_)?head_dim|num_.*(heads|experts)|.*_rank|"
                     r"num_labels|n_embd|n_heads?|n_inner|d_model|d_ff|ffn_dim|.*ffn_hidden_size)")  # fmt: skip


def loaded_files(path: Path) -> list[Path]:
    """The files that transformers loads from a model directory: those its index names, or the only one.

    Raises:
        InputError: there are none, one that the index names is missing, or the index is not an index.
    """
    if (path / WHOLE).is_file():
        return [path / WHOLE]
    try:
        weight_map = read_json(path / INDEX).get("weight_map")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no {WHOLE} and no {INDEX}") from None
    names = list(weight_map.values()) if isinstance(weight_map, Mapping) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"{path / INDEX}: weight_map is expected, from names of tensors to names of files beside it")
    names = sorted(set(names))
    missing = [name for name in names if not _is_file(path / name)]
    if missing:
        raise InputError(f"{path}: {INDEX} names {len(missing)} files that are not there, first {missing[0][:200]}")
    return [path / name for name in names]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system
        return False


def tensor_shapes(files: list[Path]) -> Shapes:
    """Shapes of all tensors, by name, from the files' headers.

    Raises:
        InputError: a file is cut or is not safetensors.
    """
    return {name: shape for file in files for name, shape in _shapes_in(file)}


def _shapes_in(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # no mapping
                yield name, tuple(tensors.get_slice(name).get_shape())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a whole safetensors file ({error}); fetch or save it again") from None


def check_sizes(config: Mapping[str, Any], shapes: Shapes) -> None:
    """Compare what a model's configuration promises with what its files hold, before anything of that size is built.

    A layer has at least one tensor, and a width is the length of some side of some tensor.

    Raises:
        InputError: a number is larger than the files allow, with its name.
    """
    longest = max([len(shapes), *(side for shape in shapes.values() for side in shape)])
    for name, value in _numbers(config):
        key = name.rpartition(".")[2]
        if _LAYERS.fullmatch(key):
            limit, what = len(shapes), f"there are only {len(shapes)} tensors"
        elif _WIDTHS.fullmatch(key):
            limit, what = longest, f"the longest side of a tensor is {longest}"
        else:
            continue
        if value > limit:
            shown = value if value < 10**30 else "over 10**30"
            raise InputError(f"{name} is {shown}, and in its weight files {what}: they belong to another configuration")


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", number) for name, number in _numbers(value))
        elif isinstance(value, int | float):
            yield key, value


def custom_code(path: Path) -> str:
    """What in a model directory asks for code of its own, as `file: key`; "" where nothing does.

    Such code is never run. Many such directories can be used all the same, as models that transformers knows.
    """
    for file in sorted(path.glob("*.json")):
        try:
            value = read_json(file) if file.stat().st_size < 10 * 2**20 else {}  # configurations, not vocabularies
        except (InputError, FileNotFoundError):
            continue
        if "auto_map" in value:
            return f"{file.name}: auto_map: {json.dumps(value['auto_map'])[:200]}"
    return ""
