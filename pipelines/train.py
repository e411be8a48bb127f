"""The training pipeline: preflight, refine, warm up, EGPO, evaluate on BFCL, register.

One factory for all machines: `callforge run` executes what it returns under kfp.local, `callforge compile` writes it
as YAML for a cluster.
"""

import json
from typing import Any

from components.stages.catalogue import PREFLIGHT, STAGES
from pipelines.profiles import Profile
from pipelines.steps import kfp_step, prepare_step


def train(profile: Profile) -> Any:
    """The KFP pipeline `train` with the profile's settings and resources baked in."""
    from kfp import dsl

    from components.preflight.component import preflight

    baked = json.dumps(profile.settings, sort_keys=True)
    name = "callforge-train" if profile.name == "gpu" else f"callforge-train-{profile.name}"

    @dsl.pipeline(name=name, description="Turns a base language model into one that calls functions well.")
    def pipeline(
        data: str = "auto",
        data_format: str = "auto",
        base_model: str = "auto",
        model_name: str = "auto",
        experiment: str = "auto",
        artifact_root: str = "auto",
        run_id: str = "auto",
        settings: str = "{}",
    ) -> None:
        """Refine records, warm the model up, train it by EGPO, evaluate it on BFCL, register it in MLflow.

        Args:
            data: Records to train on: `sample` or `sample/home` (built in), s3://bucket/file.jsonl.gz or a path in the
                image; `auto` keeps the profile's.
            data_format: Layout of the records: callforge, openai, xlam, toolace, sharegpt, glaive, or auto (looks at
                each record).
            base_model: Model to start from: a hub id, s3://bucket/folder or a path in the image; `auto` keeps the
                profile's.
            model_name: Registered model in MLflow that receives the new version; `auto` keeps the profile's.
            experiment: MLflow experiment of the run; `auto` keeps the profile's.
            artifact_root: s3://bucket/prefix for outputs, checkpoints and the merged model; `auto` keeps the profile's.
            run_id: Names the run in S3 and MLflow. The same id goes on where an earlier run stopped; `auto` takes the
                id of the Kubeflow run.
            settings: Further settings as JSON, e.g. {"egpo_rl.steps": 50, "egpo_rl.algorithm.name": "grpo"};
                docs/settings.md lists them all.
        """
        checked = preflight(
            profile=baked,
            data=data,
            data_format=data_format,
            base_model=base_model,
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

    return pipeline
