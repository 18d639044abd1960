# SPDX-License-Identifier: Apache-2.0
"""The processes that train one network together, as ``torchrun`` starts them; usually one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from xnortvm.errors import TrainingError


@dataclass(frozen=True)
class Group:
    """This process among all that train.

    Parameters
    ----------
    device : torch.device
        Where this one computes.
    rank, world : int
        Its number, from 0, and how many there are.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return what is called in training: gradients are averaged over all processes."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world == 1:
            return values
        total = values.to(self.device, copy=True)  # NCCL adds up on GPUs only
        distributed.all_reduce(total)
        return total.to(values.device)

    def average_buffers_(self, model: nn.Module) -> None:
        """Average running statistics, so that all processes test and save the same network."""
        if self.world > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer /= self.world

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            distributed.barrier()


@contextlib.contextmanager
def join(device: str = "auto") -> Iterator[Group]:
    """Join the processes that ``torchrun`` has started, or be alone.

    Parameters
    ----------
    device : str
        ``auto`` takes a GPU if there is one; ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    TrainingError
        When there is no such device.
    """
    chosen = _device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Group(chosen)
        return
    rank = int(os.environ["RANK"])
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Group(chosen, rank, world)
        distributed.barrier()  # who leaves while others still work can take them down
    finally:
        distributed.destroy_process_group()


def _device(name: str) -> torch.device:
    available: Any = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"{name!r} is not a device; take cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not available:
        raise TrainingError(f"device {name!r} is not here: PyTorch finds no GPU; take cpu")
    return device
