"""Several processes that train one model: DDP copies it to each, FSDP2 splits it among them. Everything of torch.distributed is here.

The rows of a step do not depend on the number of processes: each takes its share of every micro-batch. Losses are divided by the weight
of the whole step and multiplied by the number of processes, because DDP and FSDP2 both average gradients; so the gradient is that of one
process, however unequal the shares are.

Reference: https://docs.pytorch.org/docs/stable/distributed.html, torch.distributed.fsdp.fully_shard, torch.distributed.checkpoint.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from luthier.core.errors import RunStopped, SetupError
from luthier.core.files import DiskFull, disk_full, is_disk_full
from luthier.core.work import Part, Parts
from luthier.training import checkpoint
from luthier.training.checkpoint import Saved
from luthier.training.checkpoint.keeping import Checkpoints, Keeping
from luthier.training.patience import until_written
from luthier.training.state import RandomState, random_state

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=12)  # for a process that measures, or waits for disk space; a dead one is seen at once
SECONDS_BETWEEN_LOOKS = 0.02
SHARDS = "optimiser"
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_ZERO = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def join(*, timeout: float) -> Ranks:
    """Meet the other processes that a launcher started, as the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say.

    Args:
        timeout: Seconds to wait for them.

    Raises:
        SetupError: if they do not come.
    """
    if dist.is_initialized():
        return Ranks(is_own=False)
    if "WORLD_SIZE" not in os.environ:
        dist.init_process_group(_backend(), store=HashStore(), rank=0, world_size=1)
        return Ranks()
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    try:
        _meet(time.monotonic() + timeout)
    except (RuntimeError, ValueError) as error:  # every DistError is a RuntimeError
        raise SetupError(
            f"the {os.environ['WORLD_SIZE']} processes of this run did not meet at {host}:{port} within {timeout:g} s",
            where=f"process {os.environ.get('RANK')}: {str(error).partition(chr(10))[0]}",
            fix="see that process 0 runs there, that every machine names the same address (MASTER_ADDR, torchrun --rdzv-endpoint) and "
            "that no firewall stands between; training.rendezvous_timeout sets the seconds",
        ) from error
    return Ranks()


def _meet(deadline: float) -> None:
    """Make the process group; connecting ends at the deadline, what is done together later may take long."""
    store, rank, size = next(rendezvous("env://", timeout=_until(deadline)))
    fresh = _store_of_these(store, rank, size, deadline)
    dist.init_process_group(_backend(), store=fresh, rank=rank, world_size=size, timeout=_until(deadline))
    _set_pg_timeout(LONGEST_WAIT)


def _store_of_these(store: Store, rank: int, size: int, deadline: float) -> Store:
    """Return a part of the store that only these processes use, once all of them are there.

    torchrun keeps one store through all restarts of its workers, and addresses of dead ones stay in it. So each process says hello with a
    word nobody used before, process 0 answers every new word with the name of its own part, and goes on when all have been there.
    """
    mine = uuid.uuid4().hex
    if rank == 0:
        _welcome(store, size, mine, deadline)
        return PrefixStore(mine, store)
    store.set_timeout(_until(deadline))
    store.set(f"hello/{rank}", mine)
    name = store.get(f"welcome/{mine}").decode()
    store.set(f"{name}/here/{rank}", "yes")
    store.wait([f"{name}/all"], _until(deadline))
    return PrefixStore(name, store)


def _welcome(store: Store, size: int, name: str, deadline: float) -> None:
    missing, answered = set(range(1, size)), set()
    while missing:
        for rank in missing:
            if store.check([f"hello/{rank}"]) and (word := store.get(f"hello/{rank}").decode()) not in answered:
                store.set(f"welcome/{word}", name)
                answered.add(word)
        missing = {rank for rank in missing if not store.check([f"{name}/here/{rank}"])}
        if missing and time.monotonic() > deadline:
            raise dist.DistStoreError(f"process {', '.join(map(str, sorted(missing)))} did not come")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    store.set(f"{name}/all", "yes")


def _until(deadline: float) -> timedelta:
    return timedelta(seconds=max(0.1, deadline - time.monotonic()))


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


class Ranks:
    """The processes of a process group, seen from one of them.

    Args:
        is_own: Whether the group was made here, and is to be ended here.
    """

    def __init__(self, *, is_own: bool = True) -> None:
        self._is_own = is_own
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self._is_split = False
        if torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank % torch.cuda.device_count())

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the values summed over all processes, in float64."""
        added = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(added)
        return dict(zip(values, added.tolist(), strict=True))

    def agreed(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def gathered(self, mine: T) -> list[T]:
        """Return everybody's object, by rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        return found

    def shared(self, mine: T) -> T:
        """Return the object of process 0."""
        found: list[Any] = [mine]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def syncing(self, parts: Parts, *, last: bool) -> AbstractContextManager[object]:
        """Return the context of one micro-batch; gradients are exchanged in the last one of a step."""
        holding = ExitStack()
        for part in parts.values():
            if isinstance(part.module, FSDPModule):
                part.module.set_requires_gradient_sync(last)
            elif isinstance(part.module, DistributedDataParallel) and not last:
                holding.enter_context(part.module.no_sync())
        return holding

    def clip(self, parameters: list[nn.Parameter], max_norm: float) -> float:
        """Shorten the gradient to `max_norm`; returns its norm before."""
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def spread(self, parts: Parts, *, how: str, seed: int) -> None:
        """Give every process the weights of process 0, or (fsdp2) its share of them, and dropout of its own."""
        for part in parts.values():
            for tensor in [*part.module.parameters(), *part.module.buffers()]:
                dist.broadcast(tensor.detach(), src=0)
            if how == "fsdp2":
                _split(part.module)
        self._is_split = how == "fsdp2"
        if self.rank:
            torch.manual_seed(seed + 7919 * self.rank)

    @property
    def is_split(self) -> bool:
        """Whether each process holds only its share of the weights."""
        return self._is_split

    def training(self, parts: Parts) -> Parts:
        """Return the parts as the loop calls them."""
        return parts if self._is_split else {name: _copied(part) for name, part in parts.items()}

    def load(self, folder: Path, saved: Saved) -> None:
        """Put everything into the state of a checkpoint, of whatever number of processes."""
        if not self._is_split:
            if (folder / SHARDS).is_dir():
                raise _another_way("fsdp2", folder)
            checkpoint.load(folder, saved, rank=self.rank)
            return
        checkpoint.refuse_another(folder, saved)
        if not (folder / SHARDS).is_dir():
            raise _another_way("ddp", folder)
        self.load_parts(folder, saved.parts)
        _load_optimiser(folder, saved)
        checkpoint.read_counters(folder, saved, rank=self.rank)

    def load_parts(self, folder: Path, parts: Parts) -> None:
        """Put the weights of a checkpoint into the parts."""
        if not self._is_split:
            checkpoint.load_parts(folder, parts)
            return
        for name, part in parts.items():
            weights: dict[str, Any] = dict(load_file(folder / f"{name}.safetensors")) if self.rank == 0 else {}
            set_model_state_dict(part.module, weights, options=replace(FROM_ZERO, strict=False))

    def keeping(self, root: Path, saved: Saved, *, keep: int, check: Callable[[], None]) -> Keeping:
        """Return where checkpoints are kept."""
        return RankedCheckpoints(Checkpoints(root, saved, keep, check), self)

    def has_lost(self, error: BaseException) -> bool:
        """Whether an error says that a process at the other end of a connection is gone."""
        words = str(error)
        network = "gloo" in words and ("onnect" in words or "imed out" in words)
        return isinstance(error, dist.DistError) or network or "by peer" in words

    def leave(self) -> None:
        """Wait for the others, then part from them."""
        self.agreed(0)  # a barrier that needs no accelerator
        if self._is_own:
            dist.destroy_process_group()


@dataclass(frozen=True)
class RankedCheckpoints:
    """The checkpoints of several processes, in a folder that all of them see; process 0 makes each appear.

    Args:
        files: The folder, and what a checkpoint takes.
        ranks: The processes.
    """

    files: Checkpoints
    ranks: Ranks

    def save(self) -> str:
        """Write a checkpoint, remove old ones, and return its name; waits while the disk is full."""
        others = self.ranks.gathered(random_state())[1:]
        if not self.ranks.is_split:
            return str(self.ranks.shared(self.files.save(others) if self.ranks.rank == 0 else None))
        files = self.files
        needed = checkpoint.estimated_bytes(files.saved.parts)
        name = until_written(lambda: self._write_split(others), files.root, needed=needed, check=files.check)
        if self.ranks.rank == 0:
            files.rotate()
        return name

    def _write_split(self, others: list[RandomState]) -> str:
        """Write one consolidated file per part and a shard of the optimiser per process; process 0 makes the folder appear."""
        saved, step = self.files.saved, self.files.saved.state.step
        aside = self._together(lambda: checkpoint.open_aside(self.files.root, step))

        def finish() -> str:
            for name, tensors in weights.items():
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, aside / f"{name}.safetensors")
            checkpoint.write_counters(aside, saved, others)
            return checkpoint.commit(aside, step).name

        try:
            weights: dict[str, Any] = {name: get_model_state_dict(part.module, options=WHOLE) for name, part in saved.parts.items()}
            save_shards(_optimiser_tensors(saved), storage_writer=HuggingFaceStorageWriter(str(aside / SHARDS), save_distributed=True))
            return self._together(finish)
        except (CheckpointException, RunStopped) as error:  # told to all, so all are here
            self._together(lambda: shutil.rmtree(aside, ignore_errors=True))
            if isinstance(error, RunStopped):
                raise
            raise disk_full(aside) if is_disk_full(error) else RunStopped(f"the checkpoint cannot be written: {error}") from error

    def _together(self, act: Callable[[], T]) -> T:
        """Let process 0 act, and everybody have its result or its error."""
        result: tuple[Any, str | None, bool] = (None, None, False)
        if self.ranks.rank == 0:
            try:
                result = (act(), None, False)
            except Exception as error:  # told to all, so that none waits for what will not come
                result = (None, str(error), isinstance(error, DiskFull) or is_disk_full(error))
        value, trouble, full = self.ranks.shared(result)
        if trouble is not None:
            raise disk_full(self.files.root) if full else RunStopped(f"the checkpoint cannot be written: {trouble}")
        found: T = value
        return found

    def put_back_weights(self) -> str | None:
        """Put the weights of the newest checkpoint that verifies back; returns its name, or None where there is none."""
        folder = self.ranks.shared(checkpoint.newest_valid(self.files.root)[0] if self.ranks.rank == 0 else None)
        if folder is None:
            return None
        self.ranks.load_parts(folder, self.files.saved.parts)
        return folder.name


def _another_way(written: str, folder: Path) -> SetupError:
    fix = f"put training.parallel: {written} back into the run's recipe.yaml"
    return SetupError(f"{folder.name} was written with training.parallel={written}", where=str(folder), fix=fix)


def _split(module: nn.Module) -> None:
    """Give each process its share of every layer, so that only one layer at a time is whole in memory; inner layers come first."""
    stacks = [found for found in module.modules() if isinstance(found, nn.ModuleList)]
    for layer in [layer for stack in reversed(stacks) for layer in stack if not isinstance(layer, (nn.ModuleList, nn.ModuleDict))]:
        fully_shard(layer)
    fully_shard(module)


def _copied(part: Part) -> Part:
    """Return a part whose gradients DDP averages over the processes."""
    if not any(parameter.requires_grad for parameter in part.module.parameters()):
        return part
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name from torch 2.13 on
        return Part(DistributedDataParallel(part.module, find_unused_parameters=True, broadcast_buffers=False), part.mode)


def _optimiser_tensors(saved: Saved) -> dict[str, Any]:
    state = get_optimizer_state_dict(_all(saved), saved.optimiser, options=FLAT)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _load_optimiser(folder: Path, saved: Saved) -> None:
    """Put the optimiser into the state of a checkpoint: rates and decays come from the recipe, which must be the same."""
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    written = reader.read_metadata().state_dict_metadata
    state = get_optimizer_state_dict(_all(saved), saved.optimiser, options=FLAT)
    tensors = {name: value for name, value in state.items() if name in written}
    load_shards(tensors, storage_reader=reader)
    set_optimizer_state_dict(_all(saved), saved.optimiser, optim_state_dict={**state, **tensors}, options=FLAT)
    for name, parameter in _all(saved).named_parameters():
        if not any(f"state.{name}.{key}" in written for key in saved.optimiser.state.get(parameter, ())):
            saved.optimiser.state.pop(parameter, None)  # it never had a gradient


def _all(saved: Saved) -> nn.Module:
    return nn.ModuleDict({name: part.module for name, part in saved.parts.items()})
