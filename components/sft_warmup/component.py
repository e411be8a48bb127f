"""The KFP step of sft_warmup. Everything heavy is imported inside."""

from kfp import dsl

from components.stages.catalogue import find_stage


@dsl.component(base_image=find_stage("sft_warmup").image, install_kfp_package=False)
def sft_warmup(
    stage: str,
    run: str,
    settings: str,
    records: dsl.Input[dsl.Dataset],
    warmed_up: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Warm the base model up on the qualified records: multiscale loss on thought and call.

    Args:
        stage: its name in the catalogue.
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        records: folder of the earlier stage that it comes from.
        warmed_up: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.stages.catalogue import find_stage
    from components.stages.step import run_step

    run_step(find_stage(stage), settings, run, {"records": records}, warmed_up, report, metrics)
