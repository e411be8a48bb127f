"""The light image, built and run by Docker. Opt-in (`make test-containers`): the build reads the package index.

What is not tried here: the train image (15 GB of CUDA libraries), and a cluster.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "callforge.test"
# What a pod allows at its strictest: no network, no capability, nothing to write but /tmp.
STRICT = [
    "--network",
    "none",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--read-only",
    "--tmpfs",
    "/tmp",
]


def docker(*arguments: str, **options) -> str:
    result = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=280, **options)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


@pytest.fixture(scope="module")
def image():
    """Built by images/build.sh."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command here")
    if subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode:
        pytest.skip(f"no Docker engine answers (DOCKER_HOST={os.environ.get('DOCKER_HOST', 'not set')})")
    result = subprocess.run(
        [str(ROOT / "images" / "build.sh"), REGISTRY, "light"], capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return re.search(rf"docker push ({REGISTRY}/callforge-light:\S+)", result.stdout).group(1)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("user", ["", "123456:0"], ids=["its own user", "a user of the cluster's choice"])
def test_callforge_runs_as_an_ordinary_user(image, user):
    chosen = ["--user", user] if user else []
    command = "id -u && callforge --help && cd /tmp && callforge refine --out refined --set data_refine.sample_size=50"
    output = docker("run", "--rm", *STRICT, *chosen, image, "sh", "-c", command)
    assert output.splitlines()[0] == (user.partition(":")[0] or "1000")
    assert "Usage: callforge" in output
    assert "50 records = 50 qualified" in output


@pytest.mark.timeout(1200)
def test_image_knows_its_commit_and_has_no_torch(image):
    command = "import importlib.util, os; print(os.environ['CALLFORGE_COMMIT'], importlib.util.find_spec('torch'))"
    commit, torch = docker("run", "--rm", *STRICT, image, "python", "-c", command).split()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert commit.removesuffix("-dirty") == head.strip()
    assert torch == "None"


@pytest.mark.timeout(1200)
def test_kubeflow_step_runs_in_the_image(image, tmp_path):
    """The step as a pod gets it: KFP's own command line in the image, with nothing of this machine but the folder."""
    script = """
import json, sys
from kfp import local
from components.data_refine.component import data_refine
from components.settings import DataRefineSettings, RunSettings
local.init(runner=local.DockerRunner(network_mode="none", user="0"), pipeline_root=sys.argv[1])  # root owns the folder
task = data_refine(run=RunSettings().model_dump_json(), settings=DataRefineSettings(sample_size=50).model_dump_json())
print(json.dumps({"refined": task.outputs["refined"].path, "metrics": task.outputs["metrics"].metadata}))
"""
    environment = os.environ | {
        "CALLFORGE_REGISTRY": REGISTRY, "CALLFORGE_IMAGE_TAG": image.rpartition(":")[2], "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    outputs = json.loads(result.stdout.splitlines()[-1])
    assert outputs["metrics"]["records"] == 50
    assert (Path(outputs["refined"]) / "manifest.json").exists()
