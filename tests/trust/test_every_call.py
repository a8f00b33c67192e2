"""Item 2: the process dies, or the disk fails, at every single file-system call of save and rotate."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bowls import bowl, loaded_step
from faults import KILLED, Faults
from forks import zygote

from luthier.core.errors import RunStopped
from luthier.training import checkpoint
from luthier.training.checkpoint import manifest

BEST, KEEP, VICTIM = 1, 2, 4
MOST_CALLS = 500


def before_a_save(root: Path) -> int:
    """Three checkpoints, the first of them the best; returns the last acknowledged step."""
    for step in (1, 2, 3):
        checkpoint.save(root, bowl(step))
    return 3


def before_the_first(root: Path) -> int:
    return 0


def after_a_crash(root: Path) -> int:
    """A save and a rotation were left half done."""
    last = before_a_save(root)
    for name in (".step-00000004.tmp", ".step-00000002.old", ".step-00000001.old"):
        (root / name).mkdir()
        (root / name / "model.safetensors").write_bytes(b"half")
    return last


def over_a_damaged_one(root: Path) -> int:
    """The checkpoint of the step to be saved is there, and damaged."""
    last = before_a_save(root)
    folder = checkpoint.save(root, bowl(VICTIM))
    (folder / "state.json").write_text("{}")
    return last


SCENES: dict[str, Callable[[Path], int]] = {
    "a save and a rotation": before_a_save,
    "the first save": before_the_first,
    "what a crash left": after_a_crash,
    "a damaged one in the way": over_a_damaged_one,
}


def save_and_rotate(root: Path, acknowledged: Path, faults: Faults) -> None:
    """What is hit: the step is written down outside the watch as soon as the save has returned."""
    with faults.active():
        checkpoint.save(root, bowl(VICTIM))
        note = faults.calls
        acknowledged.symlink_to(str(VICTIM))
        checkpoint.rotate(root, keep=KEEP, best=BEST)
        assert faults.calls >= note


def die(root: str, acknowledged: str, at: int) -> int:
    """In a child: save and rotate, and end at a call."""
    save_and_rotate(Path(root), Path(acknowledged), Faults(at, "exit"))
    return 0


def trials(folder: Path, scene: Callable[[Path], int], how: str) -> Iterator[tuple[int, Path, int]]:
    """Do every trial of one scene; yields the number of the call, the folder after the fault, and the last acknowledged step."""
    before = folder / "before" / "checkpoints"
    before.parent.mkdir()
    last = scene(before)
    for at in range(1, MOST_CALLS):
        root, note = folder / f"{at:03d}" / "checkpoints", folder / f"{at:03d}" / "acknowledged"
        root.parent.mkdir()
        if before.exists():
            shutil.copytree(before, root)
        happened = exits(root, note, at) if how == "exit" else fails(root, note, at, how)
        if not happened:
            assert at > 20, "too few calls are watched"
            return
        yield at, root, VICTIM if note.is_symlink() else last
    raise AssertionError("the calls have no end")


def exits(root: Path, note: Path, at: int) -> bool:
    said = root.parent / "said.txt"
    code = zygote().run("test_every_call:die", str(root), str(note), at, said=said)
    assert code in (0, KILLED), said.read_text()
    return code == KILLED


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The zygote has imported what a save needs."""
    folder = tmp_path_factory.mktemp("learnt")
    said = folder / "said.txt"
    assert zygote().run("test_every_call:die", str(folder / "checkpoints"), str(folder / "note"), 0, said=said) == 0


def fails(root: Path, note: Path, at: int, how: str) -> bool:
    faults = Faults(at, how)
    try:
        save_and_rotate(root, note, faults)
    except RunStopped as error:
        assert not note.is_symlink(), "a rotation that fails must not stop the run"
        assert (how == "ENOSPC") == ("the disk is full" in str(error)), error
    return faults.happened


@pytest.mark.parametrize("how", ["exit", "EIO", "ENOSPC"])
def test_a_fault_at_any_call_leaves_a_loadable_checkpoint(
    how: str, learnt: None, tmp_path: Path, scale: Callable[[int, int], int], proof: Callable[..., None]
) -> None:
    num_trials, scenes = 0, list(SCENES.items())[: scale(1, len(SCENES))]
    for name, scene in scenes:
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        for at, root, acknowledged in trials(folder, scene, how):
            num_trials += 1
            manifest.forget()
            after_the_fault(root, acknowledged, name, f"{name}, call {at}")
            goes_on(root, name, f"{name}, call {at}")
    proof(
        item="2",
        promise=f"a fault ({how}) at every file-system call of save and rotate",
        asked="always a loadable checkpoint not older than the last acknowledged one, and the next save works",
        reached=f"{num_trials} of {num_trials} calls in {len(scenes)} scenes",
        ok=num_trials > 50 * len(scenes),
    )


def after_the_fault(root: Path, acknowledged: int, scene: str, trial: str) -> None:
    newest, _ = checkpoint.newest_valid(root)
    reached = loaded_step(newest) if newest else 0
    assert reached >= acknowledged, trial
    valid = [folder for folder in checkpoint.all_checkpoints(root) if checkpoint.fault_of(folder) is None]
    if scene != "the first save":
        assert len(valid) >= 2, trial
        assert root / checkpoint.name_of(BEST) in valid, trial


def goes_on(root: Path, scene: str, trial: str) -> None:
    """The next save and rotation work, and nothing of the crash is left."""
    next_step = VICTIM + 1
    with Faults().active():
        folder = checkpoint.save(root, bowl(next_step))
        checkpoint.rotate(root, keep=KEEP, best=BEST)
    assert loaded_step(folder) == next_step, trial
    left = sorted(path.name for path in root.iterdir())
    assert not [name for name in left if name.startswith(".")], (trial, left)
    steps = [checkpoint.step_of(folder) for folder in checkpoint.all_checkpoints(root)]
    assert scene == "the first save" or BEST in steps, (trial, steps)
    whole = [step for step in steps if checkpoint.fault_of(root / checkpoint.name_of(step)) is None]
    assert len(whole) <= KEEP + 1, (trial, steps)


def test_the_order_of_a_save(tmp_path: Path, proof: Callable[..., None]) -> None:
    """Files are written, then each is flushed; manifest; folder flushed; renamed; parent flushed."""
    root, faults = tmp_path / "run" / "checkpoints", Faults()
    root.parent.mkdir()
    with faults.active():
        folder = checkpoint.save(root, bowl(1))
    files = {path.name for path in folder.iterdir()} - {checkpoint.MANIFEST}
    aside = str(root / ".step-00000001.tmp")

    def last(name: str, path: str) -> int:
        return max(index for index, call in enumerate(faults.trace) if call == (name, path))

    writes = [last("write", f"{aside}/{name}") for name in files]
    flushes = [last("fsync", f"{aside}/{name}") for name in files]
    manifest_written, manifest_flushed = (last(name, f"{aside}/{checkpoint.MANIFEST}") for name in ("write", "fsync"))
    order = [
        max(writes),
        min(flushes),
        max(flushes),
        manifest_written,
        manifest_flushed,
        last("fsync", aside),
        last("rename", aside),
        last("fsync", str(root)),
    ]
    assert last("fsync", str(root.parent)) < min(writes), "the folder of all checkpoints is made to last before anything is written"
    proof(
        item="2",
        promise="order of a save: write, flush, manifest, flush, rename, flush the parent",
        asked="this order",
        reached=f"this order in {len(faults.trace)} calls on {len(files)} files and the manifest",
        ok=order == sorted(order) and len(files) == 5,
    )


@pytest.mark.parametrize("forgotten", ["fsync of a file", "fsync of the folder", "fsync of the parent"])
def test_the_order_is_seen_to_be_broken(forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the flushes the assertions above must not hold."""
    from luthier.training.checkpoint import folders

    right = folders.sync
    is_forgotten: dict[str, Callable[[Path], bool]] = {
        "fsync of a file": lambda path: path.name == "state.json",
        "fsync of the folder": lambda path: path.name.endswith(".tmp"),
        "fsync of the parent": lambda path: path.name == "checkpoints",
    }
    monkeypatch.setattr(folders, "sync", lambda path: None if is_forgotten[forgotten](path) else right(path))

    def proof(**said: Any) -> None:
        assert said["ok"]

    with pytest.raises((AssertionError, ValueError)):
        test_the_order_of_a_save(tmp_path, proof)
