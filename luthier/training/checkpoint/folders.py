"""The folders of checkpoints: how one appears whole, how old ones go, and how what a crash left is swept away."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

from luthier.core.files import sync
from luthier.training.checkpoint.manifest import contents, is_whole, note_whole, seal

log = logging.getLogger("luthier")
FEWEST = 2


def name_of(step: int) -> str:
    """Return the folder name of the checkpoint at a step."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint folder."""
    return int(folder.name.removeprefix("step-"))


def all_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint folders, oldest first."""
    return sorted((folder for folder in root.glob("step-*") if re.fullmatch(r"step-\d{8,}", folder.name) and folder.is_dir()), key=step_of)


def open_aside(root: Path, step: int) -> Path:
    """Make an empty hidden folder that `commit` will turn into the checkpoint of a step; what a crash left is swept away first."""
    if not root.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        sync(root.parent)
    sweep(root)
    aside = root / f".{name_of(step)}.tmp"
    if aside.exists():  # it could not be swept: say why
        shutil.rmtree(aside)
    aside.mkdir()
    return aside


def commit(aside: Path, step: int) -> Path:
    """Make a checkpoint of what was written aside: flush, manifest, flush, rename, flush the parent.

    Args:
        aside: The folder that `open_aside` made, filled.
        step: Its step. A checkpoint of this step that stands there already (a damaged one) is replaced.

    Returns:
        The folder of the checkpoint; from here on nothing can take it away but rotation.
    """
    final, replaced = aside.with_name(name_of(step)), aside.with_name(f".{name_of(step)}.old")
    for file in contents(aside):
        sync(file)
    seal(aside, step)
    for folder in [*(path for path in aside.rglob("*") if path.is_dir()), aside]:
        sync(folder)
    if final.exists():
        final.rename(replaced)
    aside.rename(final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
    note_whole(final)
    return final


def rotate(root: Path, *, keep: int, best: int | None) -> None:
    """Remove old checkpoints, but never the best, and only where enough newer ones verify; where that fails, say so and go on.

    Args:
        root: Folder of the checkpoints.
        keep: How many of the newest stay; at least two do.
        best: Step of the best checkpoint.
    """
    try:
        folders = all_checkpoints(root)
        kept = _newest_whole(folders, max(keep, FEWEST))
        if len(kept) < max(keep, FEWEST):
            return
        for folder in folders[: folders.index(kept[-1])]:
            if step_of(folder) != best:
                doomed = folder.with_name(f".{folder.name}.old")
                folder.rename(doomed)
                shutil.rmtree(doomed)
    except OSError as error:
        log.warning("old checkpoints could not be removed, which is tried again at the next save: %s", error)


def sweep(root: Path) -> None:
    """Remove what a crash in the middle of a save or a rotation left."""
    for folder in root.glob(".step-*"):
        if folder.suffix in (".tmp", ".old"):
            shutil.rmtree(folder, ignore_errors=True)


def _newest_whole(folders: list[Path], count: int) -> list[Path]:
    """Return the newest checkpoints that verify, newest first; no more than needed are looked at."""
    found: list[Path] = []
    for folder in reversed(folders):
        if len(found) == count:
            break
        if is_whole(folder):
            found.append(folder)
    return found
