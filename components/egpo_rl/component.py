"""The KFP step of egpo_rl: unpacks artifacts and calls train.run. Everything heavy is imported inside."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def egpo_rl(
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
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        records: folder of the earlier stage that it comes from.
        model: folder of the earlier stage that it comes from.
        trained: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.settings import EgpoRlSettings
    from components.stages.stage import run_component

    def run_stage(*arguments):  # imported when there is work to do: a resumed run skips what is done in no time
        from components.egpo_rl.train import run

        return run(*arguments)

    inputs = {"records": records, "model": model}
    run_component("egpo_rl", run_stage, EgpoRlSettings, settings, run, inputs, trained, report, metrics)
