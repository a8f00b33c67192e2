"""Item 8: a run that an older Luthier began goes on with this one, and its models answer as they did."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs import steps_of
from safetensors.torch import load_file

from luthier import flow
from luthier.core import files
from luthier.core.errors import SetupError
from luthier.training import checkpoint
from luthier.training.checkpoint import manifest

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
VERSIONS = sorted(folder.name for folder in GOLDEN.iterdir())
TOLERANCE = 1e-5  # bit for bit on the same processor and torch, this on another
STOPPED_AT, STEPS = 4, 6


@pytest.fixture(params=VERSIONS)
def golden(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one version's folder; its paths are relative, so it is the working folder too."""
    copy = Path(shutil.copytree(GOLDEN / request.param, tmp_path / request.param))
    monkeypatch.chdir(copy)
    return copy


def is_close(found: object, wanted: object) -> bool:
    return np.allclose(np.asarray(found, np.float64), np.asarray(wanted, np.float64), rtol=0, atol=TOLERANCE)


def test_there_is_one_of_each_format() -> None:
    formats = {json.loads(next((GOLDEN / name).glob("run/checkpoints/*/manifest.json")).read_text())["format"] for name in VERSIONS}
    assert formats == set(range(1, manifest.FORMAT + 1)), "make the missing one with tests/trust/make_golden_checkpoint.py"


def test_a_run_of_every_format_goes_on_to_the_same_end(golden: Path, proof: Callable[..., None]) -> None:
    flow.resume("run")
    assert files.read_json(golden / "run" / "metrics.json")["resumed_from_step"] == STOPPED_AT
    found, wanted = (load_file(golden / name / "model" / "model.safetensors") for name in ("run", "end"))
    assert found.keys() == wanted.keys() and all(is_close(found[name], wanted[name]) for name in wanted)
    steps, wanted_steps = steps_of(golden / "run"), [json.loads(line) for line in (golden / "end" / "events.jsonl").open()]
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    proof(
        item="8",
        promise=f"a checkpoint of format {golden.name.removeprefix('v')} goes on and ends in the same weights",
        asked="always",
        reached=f"resumed from step {STOPPED_AT}, ends as the run that was never stopped",
        ok=is_close([step["loss"] for step in steps], [step["loss"] for step in wanted_steps]),
    )


@pytest.mark.parametrize("model", ["end/model", "run"])
def test_answers_stay_as_they_were(model: str, golden: Path) -> None:
    if model == "run":
        flow.resume("run")
    references = files.read_json_lines(golden / "end" / "reference.jsonl")
    answers = list(flow.predict(golden / model, [line["text"] for line in references]))
    assert len(references) >= 3
    for line, answer in zip(references, answers, strict=True):
        assert answer.label == line["label"]
        assert all(is_close(answer.probabilities[name], value) for name, value in line["probabilities"].items())


@pytest.mark.parametrize("change", ["the rows", "the base model"])
def test_another_run_is_refused_in_every_format(change: str, golden: Path) -> None:
    if change == "the rows":
        rows = (golden / "rows.csv").read_text()
        (golden / "rows.csv").write_text(rows.replace("parcel", "courier", 1))
    else:
        config = json.loads((golden / "base" / "config.json").read_text())
        (golden / "base" / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.3}))
    with pytest.raises(SetupError, match="another data" if change == "the rows" else "another base model"):
        flow.resume("run")


def test_damage_is_found_in_every_format(golden: Path) -> None:
    folder = next((golden / "run" / "checkpoints").iterdir())
    assert checkpoint.fault_of(folder) is None
    for file in folder.iterdir():
        if file.name != checkpoint.MANIFEST:
            content = file.read_bytes()
            file.write_bytes(content[:-3] + bytes([content[-3] ^ 4]) + content[-2:])
            assert file.name in str(checkpoint.fault_of(folder))
            file.write_bytes(content)


def test_no_path_of_a_machine_is_kept() -> None:
    kept = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert len(kept) >= 15 * len(VERSIONS)
    assert not [path for path in kept if b"/tmp" in path.read_bytes() or os.fsencode(Path.home()) + b"/" in path.read_bytes()]
