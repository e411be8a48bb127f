"""The KFP step of egpo_rl. Everything heavy is imported inside."""

from kfp import dsl

from components.stages.catalogue import find_stage


@dsl.component(base_image=find_stage("egpo_rl").image, install_kfp_package=False)
def egpo_rl(
    stage: str,
    run: str,
    settings: str,
    records: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    trained: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Train the adapter, or all weights, by EGPO: rollouts, strict binary reward, entropy-enhanced advantage.

    Args:
        stage: its name in the catalogue.
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        records: folder of the earlier stage that it comes from.
        model: folder of the earlier stage that it comes from.
        trained: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.stages.catalogue import find_stage
    from components.stages.step import run_step

    run_step(find_stage(stage), settings, run, {"records": records, "model": model}, trained, report, metrics)
