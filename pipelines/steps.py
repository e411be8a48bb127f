"""Gives a step what it needs from a cluster: resources, endpoints and credentials."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from components.errors import InputError
from components.stages.catalogue import Stage
from pipelines.profiles import Profile

# Objects of manifests/base, in the namespace of the run.
CONFIG_MAP = "callforge"
CONFIG_KEYS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
    "CALLFORGE_ARTIFACT_ROOT",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_URI",
)
SECRET = "callforge-credentials"  # noqa: S105  # the name of an object
SECRET_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "HF_TOKEN",
)


def kfp_step(stage: Stage) -> Any:
    """The KFP component of a stage: it has the name of its package."""
    return getattr(import_module(f"{stage.package}.component"), stage.package.rpartition(".")[2])


def prepare_step(task: Any, name: str, profile: Profile) -> Any:
    """Give a KFP task the resources its profile states for the step `name`, and the environment; returns the task.

    A profile without resources is for local runs, where the environment is the caller's own.

    Raises:
        InputError: a profile for clusters has no resources for this step.
    """
    task.set_display_name(name.replace("_", " "))
    if not profile.resources:
        return task
    if name not in profile.resources:
        raise InputError(
            f"profile {profile.name}: it states no resources for the step {name}, which would then run without its "
            f"ConfigMap and Secret as well; add {name} to the profile in pipelines/profiles.py"
        )
    resources = profile.resources[name]
    from kfp import kubernetes

    # For errors that pass, such as a GPU fault: the new pod goes on from the checkpoint in S3. A lost node or an
    # evicted pod is not retried: KFP emits no retry policy, and Argo then retries failed containers only.
    if resources.gpus:
        task.set_retry(num_retries=2, backoff_duration="60s")
    task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.gpus:
        task.set_accelerator_type(resources.gpu_type).set_accelerator_limit(resources.gpus)
        kubernetes.add_toleration(task, key=resources.gpu_type, operator="Exists", effect="NoSchedule")
    if resources.shared_memory:
        kubernetes.empty_dir_mount(
            task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=resources.shared_memory  # noqa: S108  # not a file
        )  # fmt: skip
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, {key: key for key in CONFIG_KEYS}, optional=True)
    kubernetes.use_secret_as_env(task, SECRET, {key: key for key in SECRET_KEYS}, optional=True)
    task.set_env_variable("CALLFORGE_CACHE", "/tmp/callforge")  # noqa: S108  # node-local, gone with the pod
    return task
