"""The processes of one run: replicas that split the prompts, and one all-reduce of the gradients.

Started by torchrun, by `with_followers` (one process per GPU of this machine), or alone. Each process holds the whole
model; only the gradients of what is trained travel (132 MB for Qwen3-4B's adapter at rank 16, in one flat buffer).
Splitting the model over the processes is sharding.py's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from components.egpo_rl.sharding import is_sharded
from components.language_models.model_directory import default_device
from components.services.events import warn
from components.stages.processes import Processes, process_group

Item = TypeVar("Item")
GRACE_SECONDS = 30.0
BUCKET = 2**26  # gradients that are added up at a time: 256 MB, an adapter at once and a whole model in small copies


@dataclass(frozen=True)
class World(Processes):
    """This process among `size`; `device` is where its model lives."""

    device: str = "cpu"

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of `items`."""
        return items[self.rank :: self.size]

    def gather(self, value: list[Item]) -> list[Item]:
        """The lists of all processes joined, dealt back into the order of `share`."""
        if self.size == 1:
            return value
        parts: list[list[Item]] = [[]] * self.size
        dist.all_gather_object(parts, value)
        longest = max(map(len, parts))
        return [part[place] for place in range(longest) for part in parts if place < len(part)]

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return max(self.gather([number]))

    def tensors_from_leader(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The leader's `tensors`, copied to each process's device one at a time; what the others give is not read."""
        outline = self.from_leader({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
        for name, (shape, dtype) in outline.items():
            tensor = torch.empty(shape, dtype=dtype, device=self.device)
            if self.leads:
                tensor.copy_(tensors[name])
            if self.size > 1:
                dist.broadcast(tensor, src=0)
            yield name, tensor

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; a process without prompts adds zeros.

        Those of sharded parameters are sums already.
        """
        replicas = [item for item in parameters if not is_sharded(item)]
        if self.size == 1 or not replicas:
            return
        grads = []
        for item in replicas:
            if item.grad is None:
                item.grad = torch.zeros_like(item)
            grads.append(item.grad)
        for bucket in _buckets(grads):
            flat = torch.cat(bucket)
            dist.all_reduce(flat)
            for part, total in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                part.copy_(total)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The numbers of `tensors` as flat views of their memory, at most BUCKET together; a large tensor is cut."""
    bucket: list[Tensor] = []
    size = 0
    for part in (part for tensor in tensors for part in tensor.view(-1).split(BUCKET)):
        if size + part.numel() > BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(part)
        size += part.numel()
    yield bucket


@contextmanager
def with_followers(size: int, command: Sequence[str]) -> Iterator[None]:
    """Make this process the leader of `size`: the others run `command`, and end when this one does, however it ends.

    When one of them fails, this process is told to stop (SIGTERM), and ended where it cannot hear that.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    followers = [
        # Its standard input closes when this process ends: the sign for it to end, too.
        subprocess.Popen(
            command, stdin=subprocess.PIPE, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(1, size)
    ]
    over = threading.Event()
    threading.Thread(target=_watch, args=(followers, over), daemon=True).start()
    os.environ.update(shared | {"RANK": "0", "LOCAL_RANK": "0"})
    try:
        yield
    finally:
        over.set()
        for name in (*shared, "RANK", "LOCAL_RANK"):
            del os.environ[name]
        for follower in followers:
            follower.kill()
            follower.wait()


def _watch(followers: Sequence[subprocess.Popen[bytes]], over: threading.Event) -> None:
    while not over.wait(0.5):
        for rank, follower in enumerate(followers, 1):
            if follower.poll():
                warn(f"process {rank} of {len(followers) + 1} ended with code {follower.returncode}")
                os.kill(os.getpid(), signal.SIGTERM)
                if not over.wait(GRACE_SECONDS):  # waiting for the lost process inside a collective
                    os._exit(1)


@contextmanager
def open_world() -> Iterator[World]:
    """Join the processes that torchrun started (RANK, WORLD_SIZE), or this one is the only one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = default_device()
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if size == 1:
        yield World(device=device)
        return
    with process_group():
        yield World(dist.get_rank(), size, device)
