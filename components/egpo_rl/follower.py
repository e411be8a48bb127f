"""One of the processes that help a stage on a machine with several GPUs: `python -m components.egpo_rl.follower JSON`.

Runs the same `train.run` as the leader and writes no result: the leader's folder gets only the adapters of its engine.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from components.egpo_rl import train
from components.errors import CallforgeError
from components.sections import read_section
from components.services.events import library_warnings, warn
from components.services.tracking import Tracker
from components.settings import EgpoRlSettings, RunSettings
from components.stages.catalogue import find_stage
from components.stages.outputs import Outputs


def main() -> None:
    values = json.loads(sys.argv[1])
    if not sys.stdin.isatty():
        threading.Thread(target=_end_with_leader, daemon=True).start()
    stage = find_stage(values["stage"])
    config = read_section(EgpoRlSettings, values["settings"], stage.section)
    inputs = {name: Path(path) for name, path in values["inputs"].items()}
    try:
        with library_warnings():
            train.run(config, inputs, Outputs(Path(values["folder"]), Tracker(), RunSettings(), stage))
    except CallforgeError as error:
        warn(str(error))
        raise SystemExit(error.exit_code) from None


def _end_with_leader() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
