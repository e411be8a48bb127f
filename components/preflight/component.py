"""The KFP step of preflight: the first of every pipeline. Everything heavy is imported inside."""

from typing import NamedTuple

from kfp import dsl

from components import images


@dsl.component(base_image=images.LIGHT, install_kfp_package=False)
def preflight(
    profile: str,
    data: str,
    data_format: str,
    base_model: str,
    model_name: str,
    experiment: str,
    artifact_root: str,
    run_id: str,
    settings: str,
    job_id: str,
    steps: str = "auto",
    learning_rate: str = "auto",
    adapter_rank: str = "auto",
    model: str = "",
    records: str = "auto",
) -> NamedTuple(  # type: ignore[valid-type]  # KFP reads the outputs from the inline form only
    "Resolved",
    [
        ("run", str),
        ("data_refine", str),
        ("sft_warmup", str),
        ("egpo_rl", str),
        ("bfcl_eval", str),
        ("model_registration", str),
        ("model", str),
    ],
):
    """Check every setting, path, endpoint and credential before a model is loaded.

    Args:
        profile: JSON of the profile's settings.
        data: as the pipeline's parameter of this name, and so are those without a word here; "auto" keeps the
            profile's value.
        run_id: "auto" is made from job_id.
        settings: JSON of further settings, e.g. {"egpo_rl.steps": 50}.
        job_id: the pipeline job's id.
        model: the model that the pipeline `evaluate` evaluates.
        records: the own records that it asks beside BFCL.
    """
    from components.preflight.checks import resolved_model
    from components.preflight.checks import run as check

    parameters = {
        "data": data,
        "data_format": data_format,
        "base_model": base_model,
        "model_name": model_name,
        "experiment": experiment,
        "artifact_root": artifact_root,
        "steps": steps,
        "learning_rate": learning_rate,
        "adapter_rank": adapter_rank,
        "run_id": run_id if run_id != "auto" else job_id,
        "records": records,
    }
    sections = check(profile, parameters, settings, model)
    return (
        sections["run"],
        sections["data_refine"],
        sections["sft_warmup"],
        sections["egpo_rl"],
        sections["bfcl_eval"],
        sections["model_registration"],
        resolved_model(model),
    )
