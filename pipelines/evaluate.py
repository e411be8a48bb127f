"""The evaluation pipeline: one model, wherever it is, on BFCL and on own records."""

import json
from typing import Any

from components.stages.catalogue import NAMED_MODELS, PREFLIGHT
from pipelines.profiles import Profile
from pipelines.steps import prepare_step


def evaluate(profile: Profile) -> Any:
    """The KFP pipeline `evaluate` with the profile's settings and resources baked in."""
    from kfp import dsl

    from components.bfcl_eval.one_model_component import bfcl_eval_one
    from components.preflight.component import preflight

    baked = json.dumps(profile.settings, sort_keys=True)

    @dsl.pipeline(name="callforge-evaluate", description="Evaluates one model on BFCL and own records, on 1 GPU.")
    def pipeline(
        model: str,
        records: str = "auto",
        experiment: str = "auto",
        artifact_root: str = "auto",
        run_id: str = "auto",
        settings: str = "{}",
    ) -> None:
        """Answer BFCL's questions, and own records where some are named, with one model, and score the answers.

        Args:
            model: Model directory in S3 (s3://bucket/prefix): a merged model, a base model, an adapter of callforge,
                or the folder of a stage that wrote one.
            records: Own records to ask beside BFCL: s3://bucket/file.jsonl.gz in any layout, or the published folder of
                a refinement, of which those it held out are asked; `auto` is none.
            experiment: MLflow experiment of the run; `auto` is callforge.
            artifact_root: s3://bucket/prefix for the scores and generations; `auto` is CALLFORGE_ARTIFACT_ROOT of the
                ConfigMap.
            run_id: Names the run in S3 and MLflow; `auto` takes the id of the Kubeflow run.
            settings: Further settings as JSON, e.g. {"bfcl_eval.sample_per_category": 50}; docs/settings.md lists them
                all.
        """
        checked = preflight(
            profile=baked,
            data="auto",
            data_format="auto",
            base_model="auto",
            model_name="auto",
            experiment=experiment,
            artifact_root=artifact_root,
            run_id=run_id,
            settings=settings,
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            model=model,
            records=records,
        )
        checked.set_caching_options(False)  # endpoints and credentials may have changed since
        prepare_step(checked, PREFLIGHT, profile)
        source = dsl.importer(artifact_uri=checked.outputs["model"], artifact_class=dsl.Model, reimport=True)
        task = bfcl_eval_one(
            run=checked.outputs["run"], settings=checked.outputs[NAMED_MODELS.section], model=source.output
        )
        prepare_step(task, NAMED_MODELS.name, profile)

    return pipeline
