"""The KFP step that promotes a registered version through the gate. Everything heavy is imported inside."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.LIGHT, install_kfp_package=False)
def promote_version(model_name: str, version: str, alias: str, decision: dsl.Output[dsl.Markdown]):
    """Give a registered version the alias, if the gate allows it.

    Args:
        model_name: registered model.
        version: its number, or an alias such as candidate.
        alias: challenger or champion.
        decision: what the gate said, and what was done.
    """
    from pathlib import Path

    from components.errors import CallforgeError
    from components.model_registration.promotion import promote
    from components.services.events import announce, library_warnings, say

    announce("promotion", "started")
    try:
        with library_warnings():
            lines = promote(model_name, version, alias)
    except CallforgeError as error:
        announce("promotion", "failed", str(error))
        raise SystemExit(error.exit_code) from None
    say(*lines)
    announce("promotion", "done")
    Path(decision.path).write_text("".join(f"- {line}\n" for line in lines))
