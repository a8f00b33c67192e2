"""Checkpoints that are whole or not there, say what they hold, and are never lost to rotation."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model

from luthier.core import files
from luthier.core.errors import RunStopped, SetupError
from luthier.core.files import disk_full, is_disk_full, sha256_file, sync
from luthier.core.work import Parts
from luthier.training.state import TrainingState, random_state, restore_random_state

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Saved:
    """What one checkpoint takes and gives: the parts, the optimiser, the source and the counters.

    Args:
        parts: Named modules.
        optimiser: torch's optimiser over them.
        source: Anything with `state_dict` and `load_state_dict`.
        state: Counters.
        identity: Fingerprints of what the run works on; another one is refused at resume.
    """

    parts: Parts
    optimiser: torch.optim.Optimizer
    source: Any
    state: TrainingState
    identity: dict[str, Any]


def name_of(step: int) -> str:
    """Return the folder name of the checkpoint at a step."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint folder."""
    return int(folder.name.removeprefix("step-"))


def save(root: Path, saved: Saved) -> Path:
    """Write a checkpoint: files, flush, manifest, rename, flush the parent. Returns its folder.

    Raises:
        RunStopped: if the disk is full; older checkpoints are untouched.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / name_of(saved.state.step)
    if final.exists():
        return final
    aside = root / f".{final.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        _write(aside, saved)
        written = sorted(aside.iterdir())
        for file in written:
            sync(file)
        manifest = {"format": FORMAT, "step": saved.state.step, "files": {file.name: _entry(file) for file in written}}
        files.write_text(aside / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        sync(aside)
        os.rename(aside, final)
        sync(root)
    except Exception as error:
        shutil.rmtree(aside, ignore_errors=True)
        if is_disk_full(error):
            raise disk_full(final) from error
        raise
    return final


def fault_of(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if every file is as it was written."""
    try:
        manifest = files.read_json(folder / MANIFEST)
        for name, entry in manifest["files"].items():
            file = folder / name
            if file.stat().st_size != entry["size"]:
                return f"{name} has {file.stat().st_size} bytes, wanted {entry['size']}"
            if sha256_file(file) != entry["sha256"]:
                return f"{name} differs from its sha256"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return None


def newest_valid(root: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that verifies, and a sentence for each newer one that does not."""
    complaints: list[str] = []
    for folder in reversed(all_checkpoints(root)):
        fault = fault_of(folder)
        if fault is None:
            return folder, complaints
        complaints.append(f"{folder.name} is damaged and passed over: {fault}")
    return None, complaints


def all_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first."""
    return sorted((folder for folder in root.glob("step-*") if folder.is_dir()), key=step_of)


def load(folder: Path, saved: Saved) -> None:
    """Put parts, optimiser, source, counters and random generators into the state of a checkpoint.

    Raises:
        SetupError: if the checkpoint belongs to other data, another tokenizer or another base model.
    """
    state = files.read_json(folder / "state.json")
    _refuse_another_run(folder, state["identity"], saved.identity)
    load_parts(folder, saved.parts)
    _load_optimiser(folder, saved.optimiser)
    saved.source.load_state_dict(state["source"])
    saved.state.load_state_dict(state["training"])
    restore_random_state(load_file(folder / "random.safetensors"), state["random"])


def load_parts(folder: Path, parts: Parts) -> None:
    """Put the weights of a checkpoint into the parts."""
    for name, part in parts.items():
        load_model(part.module, folder / f"{name}.safetensors")


def rotate(root: Path, *, keep: int, best: int | None) -> None:
    """Remove old checkpoints, but never the best, and never so that fewer than two are left.

    Args:
        root: Folder of the checkpoints.
        keep: How many of the newest stay.
        best: Step of the best checkpoint.
    """
    folders = all_checkpoints(root)
    for folder in folders[: -max(keep, 2)]:
        if step_of(folder) != best:
            doomed = folder.with_name(f".{folder.name}.old")
            folder.rename(doomed)
            shutil.rmtree(doomed)


def estimated_bytes(parts: Parts) -> int:
    """Return how large one checkpoint is at most: weights, and two moments of the trained ones, in float32."""
    weights = [p for part in parts.values() for p in part.module.parameters()]
    return sum(4 * p.numel() * (3 if p.requires_grad else 1) for p in weights)


def check_space(root: Path, parts: Parts, free_bytes: int) -> None:
    """Refuse to start where the disk cannot take two checkpoints and a half.

    Raises:
        SetupError: if too little space is free.
    """
    needed = int(2.5 * estimated_bytes(parts))
    if free_bytes < needed:
        raise SetupError(
            f"too little disk space to keep checkpoints: {free_bytes / 2**20:.0f} MiB are free, {needed / 2**20:.0f} MiB are needed",
            where=str(root),
            fix="free some space, or name a folder on another disk with --output",
        )


def _entry(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256_file(file)}


def _write(folder: Path, saved: Saved) -> None:
    for name, part in saved.parts.items():
        save_model(part.module, str(folder / f"{name}.safetensors"))
    _save_optimiser(folder, saved.optimiser)
    tensors, plain = random_state()
    save_file(tensors, folder / "random.safetensors")
    state = {
        "training": saved.state.state_dict(),
        "source": saved.source.state_dict(),
        "random": plain,
        "identity": saved.identity,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    (folder / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")


def _save_optimiser(folder: Path, optimiser: torch.optim.Optimizer) -> None:
    """Write the optimiser's tensors as safetensors and everything else as JSON: nothing that could run when loaded."""
    state = optimiser.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    save_file(tensors, folder / "optimiser.safetensors")
    groups = state["param_groups"]
    (folder / "optimiser.json").write_text(json.dumps({"param_groups": groups, "state": plain}) + "\n", encoding="utf-8")


def _load_optimiser(folder: Path, optimiser: torch.optim.Optimizer) -> None:
    described = files.read_json(folder / "optimiser.json")
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in described["state"].items()}
    for key, tensor in load_file(folder / "optimiser.safetensors").items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = tensor
    groups = [
        {key: tuple(v) if isinstance(v, list) and key == "betas" else v for key, v in group.items()} for group in described["param_groups"]
    ]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _refuse_another_run(folder: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    changed = sorted(key for key in then if then[key] != now.get(key))
    if changed:
        raise SetupError(
            f"the checkpoint was made with another {' and another '.join(changed)}: resuming would mix two runs",
            where=str(folder),
            fix="put the old files back, or start a new run with: luthier train",
        )


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
