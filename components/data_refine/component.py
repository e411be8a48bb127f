"""The KFP step of data_refine: unpacks artifacts and calls refine.run. Everything heavy is imported inside."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.LIGHT, install_kfp_package=False)
def data_refine(
    run: str,
    settings: str,
    refined: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Check the records by rules; keep the qualified ones, with a reason for each of the others.

    Args:
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        refined: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.settings import DataRefineSettings
    from components.stages.stage import run_component

    def run_stage(*arguments):  # imported when there is work to do: a resumed run skips what is done in no time
        from components.data_refine.refine import run

        return run(*arguments)

    run_component("data_refine", run_stage, DataRefineSettings, settings, run, {}, refined, report, metrics)
