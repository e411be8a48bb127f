"""The KFP step of sft_warmup: unpacks artifacts and calls warmup.run. Everything heavy is imported inside."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def sft_warmup(
    run: str,
    settings: str,
    records: dsl.Input[dsl.Dataset],
    warmed_up: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Warm the base model up on the qualified records: multiscale loss on thought and call.

    Args:
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        records: folder of the earlier stage that it comes from.
        warmed_up: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.settings import SftWarmupSettings
    from components.stages.stage import run_component

    def run_stage(*arguments):  # imported when there is work to do: a resumed run skips what is done in no time
        from components.sft_warmup.warmup import run

        return run(*arguments)

    inputs = {"records": records}
    run_component("sft_warmup", run_stage, SftWarmupSettings, settings, run, inputs, warmed_up, report, metrics)
