"""The KFP step that evaluates one model, wherever it is. Everything heavy is imported inside."""

from kfp import dsl

from components.stages.catalogue import NAMED_MODELS


@dsl.component(base_image=NAMED_MODELS.image, install_kfp_package=False)
def bfcl_eval_one(
    run: str,
    settings: str,
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Answer BFCL's questions, and own records where the settings name some, with one model.

    Args:
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        model: model directory.
        evaluation: the evaluation directory.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.stages.catalogue import NAMED_MODELS
    from components.stages.step import run_step

    run_step(NAMED_MODELS, settings, run, {"model": model}, evaluation, report, metrics)
