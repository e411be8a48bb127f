"""The training pipeline: preflight, refine, warm up, EGPO, evaluate on BFCL, register.

One factory for all machines: `callforge run` executes what it returns under kfp.local, `callforge compile` writes it
as YAML for a cluster.
"""

import json
from typing import Any

from components.settings import ARTIFACT_ROOT_VARIABLE, Settings, resolve_settings
from components.stages.catalogue import PREFLIGHT, STAGES
from pipelines.profiles import Profile
from pipelines.steps import kfp_step, prepare_step


def train(profile: Profile) -> Any:
    """The KFP pipeline `train` with the profile's settings and resources baked in."""
    from kfp import dsl

    from components.preflight.component import preflight

    values = resolve_settings(profile.settings)
    baked = json.dumps(profile.settings, sort_keys=True)
    name = "callforge-train" if profile.name == "gpu" else f"callforge-train-{profile.name}"

    def pipeline(
        data: str,
        data_format: str = "auto",
        base_model: str = "auto",
        steps: str = "auto",
        learning_rate: str = "auto",
        adapter_rank: str = "auto",
        model_name: str = "auto",
        experiment: str = "auto",
        artifact_root: str = "auto",
        run_id: str = "auto",
        settings: str = "{}",
    ) -> None:
        checked = preflight(
            profile=baked,
            data=data,
            data_format=data_format,
            base_model=base_model,
            steps=steps,
            learning_rate=learning_rate,
            adapter_rank=adapter_rank,
            model_name=model_name,
            experiment=experiment,
            artifact_root=artifact_root,
            run_id=run_id,
            settings=settings,
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        )
        checked.set_caching_options(False)  # endpoints and credentials may have changed since
        prepare_step(checked, PREFLIGHT, profile)

        folders: dict[str, Any] = {}  # of the stages so far, as KFP artifacts
        for stage in STAGES:
            shared = {"stage": stage.name, "run": checked.outputs["run"], "settings": checked.outputs[stage.section]}
            inputs = {name: folders[source] for name, source in stage.inputs.items()}
            task = prepare_step(kfp_step(stage)(**shared, **inputs), stage.name, profile)
            folders[stage.name] = task.outputs[stage.output]

    pipeline.__doc__ = _form(values)
    return dsl.pipeline(name=name, description=_description(profile, values))(pipeline)


def _description(profile: Profile, settings: Settings) -> str:
    """What the pipeline does with what, for the list of pipelines in the Kubeflow UI."""
    gpus = max((step.gpus for step in profile.resources.values()), default=0)
    trained = "all weights" if settings.egpo_rl.trained_weights == "all" else "a LoRA adapter"
    machine = f"{gpus} GPU{'s' if gpus > 1 else ''} of 80 GB in one pod" if gpus else "the CPU"
    return f"Makes {settings.sft_warmup.base_model} call functions well: EGPO trains {trained} on {machine}."


def _form(settings: Settings) -> str:
    """The docstring that KFP makes the form's texts of, with the values that `auto` stands for."""
    return f"""Refine records, warm the model up, train it by EGPO, evaluate it on BFCL, register it in MLflow.

    Args:
        data: Records to train on: s3://bucket/file.jsonl.gz, a path in the image, or `sample` (built in: toy records,
            to try a pipeline with).
        data_format: Layout of the records: callforge, openai, xlam, toolace, sharegpt, glaive, or auto (looks at each
            record).
        base_model: Model to start from: a hub id, s3://bucket/folder or a path in the image; `auto` is
            {settings.sft_warmup.base_model}.
        steps: Steps of EGPO, one batch of rollouts each; `auto` is {settings.egpo_rl.steps}.
        learning_rate: Learning rate of EGPO; `auto` is {settings.egpo_rl.update.learning_rate:g}.
        adapter_rank: Rank of the LoRA adapter that the warm-up makes and EGPO trains on; `auto` is
            {settings.sft_warmup.adapter.rank}.
        model_name: Registered model in MLflow that receives the new version; `auto` is
            {settings.model_registration.model_name}.
        experiment: MLflow experiment of the run; `auto` is {settings.run.experiment}.
        artifact_root: s3://bucket/prefix for outputs, checkpoints and the merged model; `auto` is
            {ARTIFACT_ROOT_VARIABLE} of the ConfigMap.
        run_id: Names the run in S3 and MLflow. The same id goes on where an earlier run stopped; `auto` takes the id of
            the Kubeflow run.
        settings: Further settings as JSON, e.g. {{"egpo_rl.rollout.group_size": 16}}; docs/settings.md lists them all.
    """
