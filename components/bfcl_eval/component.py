"""The KFP step of bfcl_eval. Everything heavy is imported inside."""

from kfp import dsl

from components.stages.catalogue import find_stage


@dsl.component(base_image=find_stage("bfcl_eval").image, install_kfp_package=False)
def bfcl_eval(
    stage: str,
    run: str,
    settings: str,
    records: dsl.Input[dsl.Dataset],
    sft_warmup: dsl.Input[dsl.Model],
    egpo_rl: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
):
    """Answer the same BFCL questions with the base, the warmed-up and the trained model.

    Args:
        stage: its name in the catalogue.
        run: JSON of the run's shared settings, made by preflight.
        settings: JSON of this stage's settings, made by preflight.
        records: folder of data_refine; its held-out records are asked beside BFCL.
        sft_warmup: folder of the earlier stage that it comes from.
        egpo_rl: folder of the earlier stage that it comes from.
        evaluation: the stage folder.
        report: what happened, as a page.
        metrics: final metrics.
    """
    from components.stages.catalogue import find_stage
    from components.stages.step import run_step

    inputs = {"records": records, "sft_warmup": sft_warmup, "egpo_rl": egpo_rl}
    run_step(find_stage(stage), settings, run, inputs, evaluation, report, metrics)
