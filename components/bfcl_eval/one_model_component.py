"""The KFP step that evaluates one model, wherever it is. Everything heavy is imported inside."""

from kfp import dsl

from components.stages.catalogue import ONE_EVALUATION


@dsl.component(base_image=ONE_EVALUATION.image, install_kfp_package=False)
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
    from components.stages.catalogue import ONE_EVALUATION
    from components.stages.step import run_step

    run_step(ONE_EVALUATION, settings, run, {"model": model}, evaluation, report, metrics)
