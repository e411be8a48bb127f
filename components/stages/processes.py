"""Several processes of one stage, as torchrun starts them: the first owns what is written, the others only compute.

Only rank 0 holds the folder, the tracker, the manifest and the upload. It decides whether there is work, and tells
the others; the manifest is written when all have ended their part, and they end when it is published.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

# How long processes wait for one another. The first may be away for hours: only it contacts servers, writes checkpoints
# and uploads. One that died is noticed by torchrun or whoever started it.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """This process among `size`."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process owns what is written."""
        return self.rank == 0

    def from_leader(self, value: Any) -> Any:
        """The leader's `value`, in every process."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """The processes that torchrun started (RANK, WORLD_SIZE), or this one by itself."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    with process_group():
        import torch.distributed as dist

        yield Processes(dist.get_rank(), dist.get_world_size())


@contextmanager
def process_group() -> Iterator[None]:
    """torch's group of processes, joined once: whoever opened it closes it."""
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
