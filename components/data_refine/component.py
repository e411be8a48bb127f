"""The KFP step of data_refine. Everything heavy is imported inside."""

from kfp import dsl

from components.stages.catalogue import find_stage


@dsl.component(base_image=find_stage("data_refine").image, install_kfp_package=False)
def data_refine(
    stage: str,
    run: str,
    settings: str,
    refined: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Check the records by rules; keep the qualified ones, with a reason for each of the others.

    Args:
        stage: its name in the catalogue.
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        refined: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.stages.catalogue import find_stage
    from components.stages.step import run_step

    run_step(find_stage(stage), settings, run, {}, refined, report, metrics)
