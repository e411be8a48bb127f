"""Records a second that data_refine reads, checks and writes on one core, and its peak memory as the data grows.

    python -m benchmarks.refine            about a minute
    python -m benchmarks.refine --quick    about ten seconds

The records are the built-in sample, or those of `--records FILE`, repeated with other ids and questions so that none is
a duplicate. Prints a table; the last line is one JSON object. CPU seconds are
this process's own; the shares of the steps are measured apart, each over the same records.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from components.data_refine import refine
from components.data_refine.duplicates import KeyTable
from components.data_refine.grounding import check_grounding
from components.data_refine.overlap import bfcl_index
from components.data_refine.rules import check_record, encode
from components.data_refine.sample_source import sample_records
from components.function_calls.formats.reader import read_records
from components.function_calls.record import Record, record_to_json
from components.settings import DataRefineSettings, RunSettings
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer records")
    parser.add_argument("--records", metavar="FILE", type=Path, help="JSONL, gzip, in callforge's own layout")
    parser.add_argument("--run", metavar="FILE", help=argparse.SUPPRESS)  # one measured run, in a process of its own
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(whole_run(Path(arguments.run))))
        return
    small, large = (2_000, 8_000) if arguments.quick else (8_000, 64_000)
    with tempfile.TemporaryDirectory() as name:
        files = {
            count: write_records(Path(name) / f"{count}.jsonl.gz", count, arguments.records) for count in (small, large)
        }
        steps = step_seconds(files[small])
        runs = {count: in_own_process(file) for count, file in files.items()}
    rules = ("rules", "overlap", "grounding")
    figures = {
        "source": arguments.records.name if arguments.records else "sample",
        "records": large,
        "rules_records_per_s": round(1 / sum(steps[step] for step in rules)),
        "records_per_s": round(large / runs[large]["cpu_s"]),
        "peak_mb": {count: round(run["peak_mb"]) for count, run in runs.items()},
        "growth_bytes_per_record": round((runs[large]["peak_mb"] - runs[small]["peak_mb"]) * 2**20 / (large - small)),
    }
    print(f"{'step':<24}{'us/record':>10}{'records/s':>12}")
    rates = {step: 1 / seconds for step, seconds in steps.items()}
    rates |= {"the three rule steps": figures["rules_records_per_s"], "whole run": figures["records_per_s"]}
    for step, rate in rates.items():
        print(f"{step:<24}{1e6 / rate:>10.1f}{rate:>12,.0f}")
    for count, run in runs.items():
        print(f"{count:,} records: {run['cpu_s']:.1f} CPU s, peak {run['peak_mb']:.0f} MB")
    print(json.dumps(figures))


def write_records(path: Path, count: int, source: Path | None) -> Path:
    """A file of `count` records, none the same as another."""
    if source:
        with gzip.open(source, "rt", encoding="utf-8") as file:
            originals = [json.loads(line) for line in file]
    else:
        originals = [record_to_json(record) for record in sample_records(2000, seed=0)]
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for number, value in enumerate(itertools.islice(itertools.cycle(originals), count)):
            first, *rest = value["messages"]
            first = first | {"content": f"{first['content']} (case {number})"}
            value = value | {"id": f"{value['id']}-{number}", "messages": [first, *rest]}
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
    return path


def step_seconds(path: Path) -> dict[str, float]:
    """CPU seconds a record of each step."""
    with path.open("rb") as stream:
        started = time.process_time()
        records = list(read_records(stream, str(path)))
        seconds = {"read": time.process_time() - started}
    index = bfcl_index()

    def timed(step: str, work: Callable[[Record], Any]) -> None:
        started = time.process_time()
        for record in records:
            work(record)
        seconds[step] = time.process_time() - started

    timed("rules", check_record)
    timed("overlap", lambda record: index.nearest([m.content for m in record.messages if m.role == "user"]))
    timed("grounding", check_grounding)
    with tempfile.TemporaryDirectory() as name, closing(KeyTable(Path(name) / "keys")) as table:
        numbers = itertools.count(1)
        timed("encode and duplicates", lambda record: table.add(next(numbers), 1, encode(record)[1]))
        started = time.process_time()
        sum(1 for _ in table.findings())
        seconds["encode and duplicates"] += time.process_time() - started
        with gzip.open(Path(name) / "out.gz", "wt", encoding="utf-8", compresslevel=refine.COMPRESSION) as file:
            lines = iter([encode(record)[0] for record in records])
            timed("compress", lambda _: file.write(next(lines) + "\n"))
    return {step: value / len(records) for step, value in seconds.items()}


def whole_run(path: Path) -> dict[str, float]:
    """The stage over the file: CPU seconds and peak memory of this process."""
    with tempfile.TemporaryDirectory() as name:
        config = DataRefineSettings(data=str(path))
        started = time.process_time()
        metrics = execute_stage(find_stage("data_refine"), config, {}, Path(name) / "stage", RunSettings())
        seconds = time.process_time() - started
    # not getrusage: its peak is inherited from the process that started this one
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return {"cpu_s": seconds, "peak_mb": int(peak) / 1024, "records": metrics["records"]}


def in_own_process(path: Path) -> dict[str, float]:
    """`whole_run` in a fresh process: peak memory cannot be reset."""
    command = [sys.executable, "-m", "benchmarks.refine", "--run", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
