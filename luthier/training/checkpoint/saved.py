"""What a checkpoint holds, how it is written and how it is taken up again.

Its files are written aside (`open_aside`, `_write`); `commit` flushes them, adds the manifest and renames the
folder, so that several processes may write into one aside folder before one of them commits it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from luthier.core import files
from luthier.core.errors import GO_ON, RunStopped
from luthier.core.files import disk_full, is_disk_full, sync
from luthier.core.work import Part, Parts
from luthier.training.checkpoint.folders import all_checkpoints, commit, name_of, open_aside
from luthier.training.checkpoint.manifest import fault_of, is_whole
from luthier.training.checkpoint.optimiser_files import load_optimiser, save_optimiser
from luthier.training.checkpoint.same_run import differences, refuse_another_run
from luthier.training.state import RandomState, TrainingState, random_state, restore_random_state

STATE, RANDOM = "state.json", "random.safetensors"


@dataclass(frozen=True)
class Saved:
    """What one checkpoint takes and gives: the parts, the optimiser, the source and the counters.

    Args:
        parts: Named modules.
        optimiser: torch's optimiser over them.
        source: Anything with `state_dict` and `load_state_dict`.
        state: Counters.
        identity: What the run works on, as plain data by name; anything else is refused at resume.
    """

    parts: Parts
    optimiser: torch.optim.Optimizer
    source: Any
    state: TrainingState
    identity: dict[str, Any]


def save(root: Path, saved: Saved, others: Sequence[RandomState] = ()) -> Path:
    """Write a checkpoint: files, flush, manifest, rename, flush the parent. Returns its folder.

    Args:
        root: Folder of the checkpoints.
        saved: What it takes.
        others: Random generators of the other processes, by rank from 1.

    Raises:
        RunStopped: if the disk is full or fails; older checkpoints are untouched.
    """
    final = root / name_of(saved.state.step)
    aside: Path | None = None
    try:
        if saved_already(root, saved):
            return final
        aside = open_aside(root, saved.state.step)
        _write(aside, saved, others)
        return commit(aside, saved.state.step)
    except Exception as error:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        if is_disk_full(error):
            raise disk_full(final) from error
        if isinstance(error, (OSError, SafetensorError)):
            raise RunStopped(
                f"the checkpoint cannot be written: {error}",
                where=str(final),
                fix=f"look after the disk; then: {GO_ON}",
            ) from error
        raise


def saved_already(root: Path, saved: Saved) -> bool:
    """Whether the checkpoint of this step of this run stands there whole, as after a stop between saving and going on."""
    final = root / name_of(saved.state.step)
    if not final.is_dir() or not is_whole(final) or differences(files.read_json(final / STATE)["identity"], saved.identity):
        return False
    sync(root)
    return True


def newest_valid(root: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that verifies, and a sentence for each newer one that does not.

    Raises:
        SetupError: if a newer Luthier wrote it.
    """
    complaints: list[str] = []
    for folder in reversed(all_checkpoints(root)):
        fault = fault_of(folder)
        if fault is None:
            return folder, complaints
        complaints.append(f"{folder.name} is damaged and passed over: {fault}")
    return None, complaints


def load(folder: Path, saved: Saved, *, rank: int = 0) -> None:
    """Put parts, optimiser, source, counters and random generators into the state of a checkpoint.

    Raises:
        SetupError: if the checkpoint belongs to other data, another tokenizer, another base model or another schedule.
    """
    refuse_another(folder, saved)
    load_parts(folder, saved.parts)
    load_optimiser(folder, saved.optimiser)
    read_counters(folder, saved, rank=rank)


def load_parts(folder: Path, parts: Parts) -> None:
    """Put the weights of a checkpoint into the parts."""
    for name, part in parts.items():
        if part.checkpointed == "all":
            load_model(part.module, folder / f"{name}.safetensors")
        else:
            _load_trained(part, folder / f"{name}.safetensors")


def require_checkpoint(root: Path, step: int) -> Path:
    """Return the checkpoint of a step.

    Raises:
        RunStopped: if it is missing or damaged.
    """
    folder = root / name_of(step)
    fault = fault_of(folder)
    if fault is not None:
        raise RunStopped(f"the checkpoint {folder.name} cannot be used: {fault}", where=str(root))
    return folder


def write_counters(folder: Path, saved: Saved, others: Sequence[RandomState] = ()) -> None:
    """Write everything but weights and optimiser: counters, place in the data, random generators, identity.

    Args:
        folder: Where to.
        saved: What the checkpoint takes.
        others: Random generators of the other processes, by rank from 1.
    """
    tensors, plain = random_state()
    for rank, (of_rank, _) in enumerate(others, start=1):
        tensors |= {f"{rank}/{name}": tensor for name, tensor in of_rank.items()}
    save_file(tensors, folder / RANDOM)
    state = {
        "training": saved.state.state_dict(),
        "source": saved.source.state_dict(),
        "random": plain,
        "random of other processes": [plain_of_rank for _, plain_of_rank in others],
        "identity": saved.identity,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processes": 1 + len(others),
    }
    (folder / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")


def read_counters(folder: Path, saved: Saved, *, rank: int = 0) -> None:
    """Put counters, source and this process's random generators into the state of a checkpoint.

    Args:
        folder: The checkpoint.
        saved: What is put back.
        rank: Number of this process; one that the checkpoint knows nothing of keeps its generators as they are.
    """
    state = files.read_json(folder / STATE)
    saved.source.load_state_dict(state["source"])
    saved.state.load_state_dict(state["training"])
    tensors = load_file(folder / RANDOM)
    if rank == 0:
        restore_random_state({name: tensor for name, tensor in tensors.items() if "/" not in name}, state["random"])
    elif rank <= len(state.get("random of other processes", ())):
        mine = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{rank}/")}
        restore_random_state(mine, state["random of other processes"][rank - 1])


def refuse_another(folder: Path, saved: Saved) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        SetupError: if it belongs to other data, another tokenizer, another base model or another schedule.
    """
    refuse_another_run(folder, files.read_json(folder / STATE)["identity"], saved.identity)


def _write(folder: Path, saved: Saved, others: Sequence[RandomState]) -> None:
    for name, part in saved.parts.items():
        if part.checkpointed == "all":
            save_model(part.module, str(folder / f"{name}.safetensors"))
        else:
            save_file({key: tensor.detach().contiguous() for key, tensor in _trained(part).items()}, folder / f"{name}.safetensors")
    save_optimiser(folder, saved.optimiser)
    write_counters(folder, saved, others)


def _trained(part: Part) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in part.module.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _load_trained(part: Part, path: Path) -> None:
    found, trained = load_file(path), _trained(part)
    if found.keys() != trained.keys():
        raise RunStopped(f"the checkpoint has other trained weights than the model: {path}", fix="train it anew")
    for name, parameter in trained.items():
        parameter.copy_(found[name])
