"""The locks (`make lock`): of the present inputs, complete, with hashes where they are installed by them, in agreement.
Asks no index."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from images import locks

ROOT = Path(__file__).resolve().parents[2]
DEVELOPMENT, LIGHT, TRAIN = locks.LOCKS
IMAGES = (LIGHT, TRAIN)
ON_LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "python_full_version": "3.11.0",
            "python_version": "3.11", "implementation_name": "cpython",
            "platform_python_implementation": "CPython"}  # fmt: skip


def by_path(lock: locks.Lock) -> str:
    return lock.path


def requirements(text: str) -> list[Requirement]:
    """What a requirements file names, without its hashes."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    wanted = [re.sub(r"(^|\s)#.*|--hash=\S+", "", line).strip() for line in lines]
    return [Requirement(line) for line in wanted if line]


def pins(lock: locks.Lock) -> dict[str, Version]:
    """Version of each package in the lock, on Linux and Python 3.11."""
    found = {}
    for requirement in requirements((ROOT / lock.path).read_text()):
        (pin,) = requirement.specifier
        assert pin.operator == "==" and requirement.url is None, requirement
        if requirement.marker is None or requirement.marker.evaluate(ON_LINUX):
            assert requirement.name not in found, requirement
            found[requirement.name] = Version(pin.version)
    return found


@pytest.mark.parametrize("lock", locks.LOCKS, ids=by_path)
def test_a_lock_was_made_from_the_present_inputs(lock):
    (digest,) = re.findall(r"^# inputs sha256:(\w+)$", (ROOT / lock.path).read_text(), re.MULTILINE)
    assert digest == locks.digest(lock), f"{lock.path} is stale: run `make lock`"


def test_every_input_of_a_lock_makes_it_stale_and_nothing_else_does(tmp_path):
    for name in {"pyproject.toml", *TRAIN.inputs, *LIGHT.inputs}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def changed(path: str, old: str, new: str) -> list[bool]:
        text = (tmp_path / path).read_text()
        assert old in text
        (tmp_path / path).write_text(text.replace(old, new))
        stale = [locks.digest(lock, tmp_path) != locks.digest(lock) for lock in IMAGES]
        (tmp_path / path).write_text(text)
        return stale

    assert changed("pyproject.toml", "line-length = 120", "line-length = 121") == [False, False]
    assert changed("pyproject.toml", "hypothesis>=6.100", "hypothesis>=6.101") == [False, False]
    assert changed("pyproject.toml", "boto3>=1.40", "boto3>=1.41") == [True, True]
    assert changed("pyproject.toml", "peft>=0.21", "peft>=0.20") == [False, True]
    assert changed("pyproject.toml", 'requires-dist = ["filelock"]', "requires-dist = []") == [True, True]
    assert changed("images/light/requirements.in", "setuptools>=77", "setuptools>=78") == [True, False]
    assert changed("images/train/requirements.in", "vllm==0.32.0", "vllm==0.31.0") == [False, True]
    assert changed("images/excluded.txt", "\nmlflow", "\nkfp") == [True, True]


@pytest.mark.parametrize("lock", locks.LOCKS, ids=by_path)
def test_a_lock_satisfies_pyproject_and_its_requirements(lock):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    for extra in lock.extras:
        wanted += map(Requirement, project["optional-dependencies"][extra])
    inputs = [requirements((ROOT / path).read_text()) for path in lock.inputs]
    excluded = {requirement.name for requirement in inputs[1]} if len(inputs) > 1 else set()
    found = pins(lock)
    for requirement in wanted + inputs[0]:
        name = requirement.name.lower()
        if name in excluded:
            assert name not in found
            continue
        assert name in found, f"{name} is not locked"
        assert requirement.specifier.contains(found[name]), f"{name} {found[name]}: wanted is {requirement}"


def test_the_development_lock_is_of_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(DEVELOPMENT.extras) == set(project["optional-dependencies"])


@pytest.mark.parametrize("lock", IMAGES, ids=by_path)
def test_what_an_image_installs_has_hashes_and_comes_from_no_named_index(lock):
    text = (ROOT / lock.path).read_text()
    for line in re.sub(r"\\\n", " ", text).splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9.-]+==\S+( +--hash=sha256:[0-9a-f]{64})+", line), line
    dockerfile = (ROOT / Path(lock.path).with_name("Dockerfile")).read_text()
    (install,) = [line for line in dockerfile.splitlines() if "requirements.txt" in line and "pip install" in line]
    assert {"--no-deps", "--require-hashes"} <= set(install.split())


def test_the_development_lock_names_no_index_and_no_build_of_torch():
    """A CPU build, where one is offered, satisfies the plain version."""
    text = (ROOT / DEVELOPMENT.path).read_text()
    assert not re.search(r"://|^\s*-", text, re.MULTILINE)
    assert pins(DEVELOPMENT)["torch"].local is None


def test_locks_agree_on_what_one_step_hands_to_the_next():
    """The weights, the records and the wire: what is tested is what runs, to the version where it matters."""
    development, light, train = map(pins, locks.LOCKS)
    for package in ("bfcl-eval", "jsonschema", "kfp", "kfp-kubernetes", "kubernetes", "mlflow-skinny", "protobuf"):
        assert development[package] == light[package] == train[package], package
    for package in ("torch", "peft", "accelerate", "safetensors", "tokenizers"):
        assert development[package] == train[package], package
    for package in ("boto3", "botocore", "pydantic"):
        assert light[package] == train[package], package
    assert development["mlflow"] == development["mlflow-skinny"]
    assert not {"torch", "transformers", "vllm"} & light.keys()
