"""The KFP step of model_registration: unpacks artifacts and calls register.run. Everything heavy is imported inside."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def model_registration(
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
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        model: folder of the earlier stage that it comes from.
        evaluation: folder of the earlier stage that it comes from.
        registration: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.settings import ModelRegistrationSettings
    from components.stages.stage import run_component

    def run_stage(*arguments):  # imported when there is work to do: a resumed run skips what is done in no time
        from components.model_registration.register import run

        return run(*arguments)

    inputs = {"model": model, "evaluation": evaluation}
    run_component(
        "model_registration", run_stage, ModelRegistrationSettings, settings, run, inputs, registration, report, metrics
    )
