"""The KFP step that evaluates one model: calls evaluate.run_one. Everything heavy is imported inside."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def bfcl_eval_one(
    run: str,
    settings: str,
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Answer BFCL's questions with one model.

    Args:
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        model: model directory.
        evaluation: the evaluation directory.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.bfcl_eval.evaluate import run_one
    from components.settings import BfclEvalSettings
    from components.stages.stage import run_component

    run_component("bfcl_eval", run_one, BfclEvalSettings, settings, run, {"model": model}, evaluation, report, metrics)
