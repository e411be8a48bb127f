"""The promotion pipeline: one step that moves an alias through the gate, for people at the Kubeflow UI."""

from typing import Any

from pipelines.profiles import Profile
from pipelines.steps import prepare_step


def promote(profile: Profile) -> Any:
    """The KFP pipeline `promote`; of the profile it takes the resources."""
    from kfp import dsl

    from components.model_registration.promotion_component import promote_version

    @dsl.pipeline(name="callforge-promote", description="Makes a registered version challenger or champion.")
    def pipeline(model_name: str = "callforge", version: str = "candidate", alias: str = "champion") -> None:
        """Make a registered version the champion, if the gate allows it.

        Args:
            model_name: Registered model in MLflow.
            version: Number of the version, or an alias it has, such as candidate or challenger.
            alias: Alias to give it: challenger or champion. The gate compares it with the champion, on BFCL and on own
                records.
        """
        task = promote_version(model_name=model_name, version=version, alias=alias)
        task.set_caching_options(False)  # the champion may have changed since
        prepare_step(task, "promotion", profile)

    return pipeline
