"""The KFP step of model_registration. Everything heavy is imported inside."""

from kfp import dsl

from components.stages.catalogue import find_stage


@dsl.component(base_image=find_stage("model_registration").image, install_kfp_package=False)
def model_registration(
    stage: str,
    run: str,
    settings: str,
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Merge the adapter, upload the weights to S3 and register them in MLflow with their lineage.

    Args:
        stage: its name in the catalogue.
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        model: folder of the earlier stage that it comes from.
        evaluation: folder of the earlier stage that it comes from.
        registration: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.stages.catalogue import find_stage
    from components.stages.step import run_step

    inputs = {"model": model, "evaluation": evaluation}
    run_step(find_stage(stage), settings, run, inputs, registration, report, metrics)
