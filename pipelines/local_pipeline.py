"""`python -m pipelines.local_pipeline RUN_FOLDER`: the pipeline `train` under kfp.local, as run.json asks for it.

A process of its own because KFP's local runner owns standard output, the root logger and `print`. Started by
pipelines/local.py, never by hand.
"""

from __future__ import annotations

import json
import signal
import sys
import warnings
from pathlib import Path

from components.services.events import announce, trace
from components.settings import AUTO
from components.stages.local_run import join_run
from pipelines.profiles import find_profile

REQUEST, KFP_ROOT = "run.json", "kfp"  # in the run directory: what is asked for, and KFP's own files
PIPELINE = "pipeline"  # in the place of a stage's name, where none is to blame


def main(folder: Path) -> int:
    """Run it; 1 when it failed. A step leaves its reason in its own error.json; any other is reported as an event."""
    join_run()
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # meant for the step: wait for its end
    try:
        _run(folder)
    except Exception as error:
        trace(error)
        if not isinstance(error, RuntimeError):  # which KFP raises for a step that failed
            announce(PIPELINE, "failed", f"KFP's local runner: {type(error).__name__}: {error}")
        return 1
    return 0


def _run(folder: Path) -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")  # "non-Python base image": it is ours
    from kfp import local

    from pipelines.train import train

    request = json.loads((folder / REQUEST).read_text("utf-8"))
    root = str(folder / KFP_ROOT)
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root, enable_caching=False)
    pipeline = train(find_profile(request["profile"]))
    pipeline(data=AUTO, run_id=folder.name, settings=json.dumps(request["settings"], sort_keys=True))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
