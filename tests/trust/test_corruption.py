"""Item 5: flipped bytes and truncations in the newest checkpoint are all found, the one before is used, and it is said."""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from bowls import bowl
from forks import zygote
from runs import steps_of, weights_hash

from luthier import flow
from luthier.training import checkpoint
from luthier.training.checkpoint import manifest

CHANGES = {"training.max_steps": 8, "training.save_every": "2steps", "evaluate.baseline": False}
NEWEST, BEFORE = "step-00000008", "step-00000006"
FILES = ("model.safetensors", "optimiser.safetensors", "optimiser.json", "random.safetensors", "state.json", "manifest.json")
VERIFIED_BYTES = 48 * 2**20
VERIFY_SECONDS = 0.1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_csv: Path) -> Path:
    """A finished run; read it, never write into it."""
    return flow.train(tiny.tiny_recipe(tiny_model, tiny_csv, tmp_path_factory.mktemp("corruption") / "run", CHANGES)).path


@pytest.fixture
def root(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "checkpoints", tmp_path / "checkpoints"))


def flip(file: Path, dice: random.Random) -> None:
    """Replace one byte by another."""
    content = bytearray(file.read_bytes())
    place = dice.randrange(len(content))
    content[place] ^= dice.randrange(1, 256)
    file.write_bytes(content)


def cut(file: Path, dice: random.Random) -> None:
    """Leave the beginning only."""
    os.truncate(file, dice.randrange(file.stat().st_size))


def is_found(root: Path) -> bool:
    """Whether the newest checkpoint is passed over for the one before, with a sentence that names it."""
    folder, complaints = checkpoint.newest_valid(root)
    return folder is not None and folder.name == BEFORE and len(complaints) == 1 and complaints[0].startswith(f"{NEWEST} is damaged")


def test_damage_is_found(root: Path, scale: Callable[[int, int], int], proof: Callable[..., None]) -> None:
    dice, newest = random.Random(3), root / NEWEST
    names = sorted(path.name for path in newest.iterdir())
    counts = {flip: scale(40, 200), cut: scale(10, 50)}
    assert checkpoint.newest_valid(root) == (newest, []), "undamaged, it is used"
    unseen, kinds = [], Counter[str]()
    for damage, count in counts.items():
        for number in range(count):
            file = newest / names[number % len(names)]
            content = file.read_bytes()
            damage(file, dice)
            kinds[file.name] += 1
            if not is_found(root):
                unseen.append((damage.__name__, file.name))
            file.write_bytes(content)
    assert checkpoint.newest_valid(root) == (newest, []), "mended, it is used"
    assert not unseen, unseen
    proof(
        item="5",
        promise="damage in the newest checkpoint is found, the one before is used, and it is said",
        asked=f"{counts[flip]} of {counts[flip]} flipped bytes, {counts[cut]} of {counts[cut]} truncations",
        reached=f"{kinds.total()} of {kinds.total()}, in all {len(kinds)} files ({', '.join(sorted(kinds))})",
        ok=kinds.keys() == set(FILES),
    )


def change(**values: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / checkpoint.MANIFEST).read_text())
        (folder / checkpoint.MANIFEST).write_text(json.dumps({**content, **values}, indent=2) + "\n")

    return apply


def replace(old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        text = (folder / checkpoint.MANIFEST).read_text()
        assert old in text
        (folder / checkpoint.MANIFEST).write_text(text.replace(old, new, 1))

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(change(step=7), id="another step"),
        pytest.param(change(format=1), id="an older format"),
        pytest.param(change(format=9), id="a newer format that nobody wrote"),
        pytest.param(change(format="2"), id="a format in words"),
        pytest.param(change(files={}), id="no file listed"),
        pytest.param(change(sha256=None), id="no checksum of its own"),
        pytest.param(replace('"state.json"', '"stare.json"'), id="another file name"),
        pytest.param(replace('"size": ', '"size":  '), id="a blank"),
        pytest.param(replace("\n", "\r\n"), id="another line end"),
        pytest.param(lambda folder: (folder / "state.json").unlink(), id="a file gone"),
        pytest.param(lambda folder: (folder / checkpoint.MANIFEST).unlink(), id="the manifest gone"),
        pytest.param(lambda folder: (folder / "more.safetensors").write_bytes(b"x"), id="a file added"),
        pytest.param(lambda folder: (folder / "state.json").rename(folder / "stat.json"), id="a file renamed"),
        pytest.param(lambda folder: shutil.copy(folder.parent / BEFORE / "state.json", folder / "state.json"), id="a file of another step"),
        pytest.param(lambda folder: swap(folder, folder.parent / BEFORE), id="the folder of another step"),
    ],
)
def test_damage_that_still_parses_is_found(damage: Callable[[Path], None], root: Path) -> None:
    damage(root / NEWEST)
    assert is_found(root), checkpoint.newest_valid(root)


def swap(folder: Path, other: Path) -> None:
    """Put another checkpoint in the place of one."""
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


@pytest.mark.parametrize("name", FILES)
def test_a_resume_uses_the_one_before_and_says_so(name: str, run: Path, tmp_path: Path) -> None:
    hurt, said = tmp_path / "run", tmp_path / "said.txt"
    shutil.copytree(run, hurt)
    (hurt / "metrics.json").unlink()
    shutil.rmtree(hurt / "model")
    flip(hurt / "checkpoints" / NEWEST / name, random.Random(1))
    assert zygote().run("victims:train", ["--resume", str(hurt)], str(tmp_path / "marks"), said=said) == 0, said.read_text()
    words = " ".join(said.read_text().split())
    assert f"warning: {NEWEST} is damaged and passed over" in words and f"resumed from {BEFORE}" in words
    assert weights_hash(hurt) == weights_hash(run) and steps_of(hurt) == steps_of(run)
    assert checkpoint.fault_of(hurt / "checkpoints" / NEWEST) is None, "the damaged one was written anew"


def test_verifying_is_quick(tmp_path: Path, proof: Callable[..., None]) -> None:
    folder = checkpoint.save(tmp_path, bowl(1, width=2048))
    size = sum(file.stat().st_size for file in folder.iterdir())
    seconds = []
    for _ in range(9):
        manifest.forget()
        started = time.perf_counter()
        assert checkpoint.fault_of(folder) is None
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    proof(
        item="5",
        promise="verifying a checkpoint of 48 MiB",
        asked=f"at most {VERIFY_SECONDS} s",
        reached=f"{median:.3f} s for {size / 2**20:.0f} MiB (median of 9, files in memory)",
        ok=median <= VERIFY_SECONDS and size >= VERIFIED_BYTES,
    )


def test_a_newer_format_is_said(run: Path, tmp_path: Path) -> None:
    hurt, said = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "said.txt"
    (hurt / "metrics.json").unlink()
    rewrite_as(hurt / "checkpoints" / NEWEST, manifest.FORMAT + 1)
    assert zygote().run("victims:train", ["--resume", str(hurt)], str(tmp_path / "marks"), said=said) == 2
    assert "was written by a newer Luthier" in said.read_text() and "update Luthier" in said.read_text()


def rewrite_as(folder: Path, format_: int) -> None:
    """Write the manifest that a Luthier of another format would."""
    body = json.loads((folder / checkpoint.MANIFEST).read_text())
    del body["sha256"]
    (folder / checkpoint.MANIFEST).write_text(manifest._text({**body, "format": format_}))
