"""The KFP step of bfcl_eval: unpacks artifacts and calls evaluate.run. Everything heavy is imported inside."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def bfcl_eval(
    run: str,
    settings: str,
    sft_warmup: dsl.Input[dsl.Model],
    egpo_rl: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Answer the same BFCL questions with the base, the warmed-up and the trained model.

    Args:
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        sft_warmup: folder of the earlier stage that it comes from.
        egpo_rl: folder of the earlier stage that it comes from.
        evaluation: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.settings import BfclEvalSettings
    from components.stages.stage import run_component

    def run_stage(*arguments):  # imported when there is work to do: a resumed run skips what is done in no time
        from components.bfcl_eval.evaluate import run

        return run(*arguments)

    inputs = {"sft_warmup": sft_warmup, "egpo_rl": egpo_rl}
    run_component("bfcl_eval", run_stage, BfclEvalSettings, settings, run, inputs, evaluation, report, metrics)
