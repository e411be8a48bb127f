"""The architecture as a test: imports go down, never up, never sideways; KFP steps stay thin and light."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.stages.catalogue import STAGES

ROOT = Path(__file__).parents[2]
# Lower floors first; what stands on one floor may be imported from a higher one, and from itself.
FLOORS = {
    "components.errors": 0,
    "components.images": 0,
    "components.files": 1,
    "components.sections": 1,
    "components.settings": 2,
    "components.function_calls": 2,
    "components.services": 3,
    "components.stages": 4,
    "components.language_models": 4,
    "components.evaluations": 5,
    "components.preflight": 6,
    **{stage.package: 6 for stage in STAGES},
    "pipelines": 7,
}
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "trl",
    "mlflow",
    "boto3",
    "kfp",
    "kubernetes",
    "numpy",
    "matplotlib",
    "datasets",
}
GROUND_FLOOR_OF_WORDS = HEAVY | {"components.services", "urllib", "http", "socket", "requests"}
FILES = sorted(path for folder in ("components", "pipelines") for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module: str) -> str | None:
    """`components.egpo_rl.train` is in `components.egpo_rl`."""
    found = [room for room in FLOORS if module == room or module.startswith(f"{room}.")]
    return found[0] if found else None


def imports_of(path: Path, *, at_module_level: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text("utf-8"))
    nodes = _module_level(tree.body) if at_module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; the import path is the file path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            yield from _module_level(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from _module_level(node.body)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path):
    own = room_of(module_of(path))
    for imported in imports_of(path):
        room = room_of(imported)
        if room is None or own is None or room == own:
            continue
        assert FLOORS[room] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {imported}"


@pytest.mark.parametrize("path", sorted((ROOT / "components/function_calls").rglob("*.py")), ids=module_of)
def test_function_calls_knows_neither_network_nor_models(path):
    for imported in imports_of(path):
        assert not any(imported == name or imported.startswith(f"{name}.") for name in GROUND_FLOOR_OF_WORDS), imported


@pytest.mark.parametrize("path", sorted((ROOT / "components").glob("*/*component.py")), ids=module_of)
def test_kfp_steps_are_thin_and_light(path):
    assert len(path.read_text("utf-8").splitlines()) < 80
    for imported in imports_of(path, at_module_level=True):
        root = imported.split(".")[0]
        light = root in {"kfp", "typing"} or imported.startswith(("components.images", "components.stages.catalogue."))
        assert light, f"{imported} belongs into the function"


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "components/sections.py",
        ROOT / "components/settings.py",
        *sorted((ROOT / "components/services").glob("*.py")),
        *sorted((ROOT / "components/stages").glob("*.py")),
        *sorted((ROOT / "pipelines").glob("*.py")),
    ],
    ids=module_of,
)
def test_what_the_command_starts_with_is_light(path):
    for imported in imports_of(path, at_module_level=True):
        assert imported.split(".")[0] not in HEAVY, f"{imported} at module level slows `callforge --help` down"


def test_what_a_checker_is_told_to_pass_over_has_a_reason():
    told = re.compile(r"[#] (type: ignore\[[a-z-]+\]|noqa: [A-Z]+[0-9]+\b)(?! +# \w)")
    paths = [*FILES, *(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))]
    found = [f"{path}:{line}" for path in paths for line in path.read_text("utf-8").split("\n") if told.search(line)]
    assert not found, "say why behind a second #"


def files_of(imported: str) -> Iterator[Path]:
    """The files that an import of `components...` runs, packages of the name included."""
    parts = imported.split(".")
    for length in range(2, len(parts) + 1):
        place = ROOT.joinpath(*parts[:length])
        yield from filter(Path.is_file, (place.with_suffix(".py"), place / "__init__.py"))


@pytest.mark.parametrize(
    "module",
    ["components.preflight.checks", "components.data_refine.refine", "components.model_registration.promotion"],
)
def test_what_the_light_image_runs_imports_nothing_that_trains(module):
    """images/light has neither torch nor transformers. A function may import them where they are there."""
    waiting, seen = [*files_of(module), *files_of("components.stages.step")], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for imported in imports_of(path, at_module_level=True):
            root = imported.split(".")[0]
            assert root not in {"torch", "transformers", "peft", "trl", "safetensors", "tokenizers"}, path
            waiting += files_of(imported) if root == "components" else ()
    assert len(seen) > 20


@pytest.mark.parametrize("package", [room for room, floor in FLOORS.items() if floor == 6])
def test_every_stage_is_one_folder_with_a_component(package):
    assert ROOT.joinpath(*package.split("."), "component.py").is_file()


PRINTERS = {"components.services.events", "components.services.progress", "pipelines.console"}


@pytest.mark.parametrize("path", [path for path in FILES if module_of(path) not in PRINTERS], ids=module_of)
def test_only_events_and_the_console_print(path):
    """They make foreign text safe for a terminal, and nothing is printed past whatever draws the run."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("print", "traceback.print_exc", "traceback.print_exception", "typer.echo"), node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "rich.console":
            raise AssertionError(f"line {node.lineno}: a console of its own; take pipelines.console's")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_say_what_they_do_and_stay_small(path):
    text = path.read_text("utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "the first lines say what the file does"
    assert len(text.splitlines()) <= 600, "a file over 600 lines must be split"
