"""What several benchmarks share: what machine this is, how fast it multiplies, how much a process has held."""

from __future__ import annotations

import datetime
import platform
import subprocess
import time
from pathlib import Path

import torch


def where_and_when() -> dict[str, str]:
    """Machine, commit and date, to stand beside every figure."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"  # a copy of the tree without its history
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    else:
        machine = f"{_processor()}, {torch.get_num_threads()} threads"
    return {"machine": machine, "commit": commit, "date": str(datetime.date.today()), "torch": torch.__version__}


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations of a square matrix product per second, on a CPU per CPU second: the best of several.

    CPU seconds of all threads, so that other work on the machine does not count.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    left = torch.randn(size, size, dtype=dtype, device=device)
    right = torch.randn(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(12):
        _wait(device)
        started = clock()
        left @ right
        _wait(device)
        best = min(best, clock() - started)
    return 2 * size**3 / best


def peak_memory_mb() -> float:
    """Most memory this process has held, in MB (on Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
