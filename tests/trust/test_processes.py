"""Item 14: several processes do what one does: the same gradients, the same runs, and the same care when something goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradients
import pytest
import ranks
import tiny
import torch
import yaml
from runs import checkpoint_weights, checkpoints_of, events_of, steps_of, weights_hash
from safetensors.torch import load_file

from luthier.core import files

MakeRecipe = Callable[..., dict[str, Any]]
Proof = Callable[..., None]
NUM_ROWS = 17  # the last step has one row: fewer than there are processes
SETTINGS = {
    "data.split": {"validation": 0.2, "test": 0.2},
    "training.max_steps": 12,
    "training.save_every": "4 steps",
    "training.eval_every": "4 steps",
    "training.ledger": True,
    "evaluate.baseline": False,
}


@pytest.fixture
def write(tmp_path: Path, recipe: MakeRecipe, tiny_model: Path) -> Callable[..., list[str]]:
    """Write the recipe of a run, and return the words that train it: `write("run", {...}, model=...)`."""

    def make(name: str, changes: dict[str, Any] | None = None, *, model: Path = tiny_model) -> list[str]:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe(name, {**SETTINGS, **(changes or {})}, model=model)), encoding="utf-8")
        return ["train", str(path)]

    return make


# ---------------------------------------------------------------------------------------------------------------- gradients


PLAIN = {"training.speed.lean_blocks": False, "training.speed.row_embedding": False}  # fsdp2 has neither


@pytest.fixture(scope="module")
def gradients_of_one(still_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The recipes of every case, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("one")
    rows = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(NUM_ROWS))
    recipes = {
        case: tiny.tiny_recipe(still_model, rows, folder / "run", {"data.split": {"test": 0}, **PLAIN, **changes})
        for case, changes in gradients.CASES.items()
    }
    ranks.all_well(folder, 1, "gradients:measure", recipes, "ddp", str(folder / "one.safetensors"))
    return recipes, load_file(folder / "one.safetensors")


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_processes_make_the_gradient_of_one(
    how: str, gradients_of_one: tuple[dict[str, Any], dict[str, torch.Tensor]], tmp_path: Path, proof: Proof
) -> None:
    recipes, one = gradients_of_one
    ranks.all_well(tmp_path, 2, "gradients:measure", recipes, how, str(tmp_path / "two.safetensors"))
    two = load_file(tmp_path / "two.safetensors")
    assert one.keys() == two.keys(), sorted(one.keys() ^ two.keys())
    worst, compared = _worst_difference(one, two)
    assert compared == len(gradients.CASES) * 5, "three steps of up to 8 rows and two of up to 12 in each case"
    tokens = [found.flatten().tolist() for name, found in two.items() if name.endswith("|tokens")]
    unequal = sum(mine != other for mine, other in tokens)
    assert unequal > 0.8 * compared and sum(0 in pair for pair in tokens) == len(gradients.CASES), "one step leaves process 1 no row"
    assert any("pooler" in name for name in one if name.startswith("plain")) and not any("pooler" in name for name in one if "mean" in name)
    assert not any("embeddings" in name for name in one if name.startswith("frozen"))
    proof(
        item="14",
        promise=f"2 processes ({how}) make the gradient of 1: unequal tokens, accumulation 1 and 3, a step with fewer rows than processes",
        asked="relative error <= 1e-6",
        reached=f"{worst:.1e} at worst in {compared} steps, tokens unequal in {unequal}",
        ok=worst <= 1e-6,
    )


def _worst_difference(one: dict[str, torch.Tensor], more: dict[str, torch.Tensor]) -> tuple[float, int]:
    """The largest relative difference of loss or gradient among all steps, and the number of steps."""
    steps = [name.removesuffix("|loss") for name in one if name.endswith("|loss")]
    worst = 0.0
    for step in steps:
        names = [name for name in one if name.startswith(f"{step}|gradient|")]
        gradient = torch.cat([one[name].double().flatten() for name in names])
        other = torch.cat([more[name].double().flatten() for name in names])
        assert gradient.count_nonzero() > 0.1 * gradient.numel()
        loss, other_loss = float(one[f"{step}|loss"]), float(more[f"{step}|loss"])
        worst = max(worst, float((other - gradient).norm() / gradient.norm()), abs(other_loss - loss) / abs(loss))
    return worst, len(steps)


# --------------------------------------------------------------------------------------------------------------- whole runs


def run_of(words: list[str]) -> Path:
    """The run folder that the words of a training name."""
    return Path(yaml.safe_load(Path(words[1]).read_text(encoding="utf-8"))["output"])


def scores_of(run: Path) -> list[float]:
    """Every score and bound of a finished run."""
    splits = files.read_json(run / "metrics.json")["scores"]
    return [value for scores in splits.values() for score in scores.values() for value in score.values() if value is not None]


def train(folder: Path, words: list[str], size: int, *, fault: dict[str, Any] | None = None) -> Path:
    """Train to the end in some processes; returns the run folder."""
    ranks.all_well(folder / "said", size, "ranked:luthier", words, fault)
    return run_of(words)


@pytest.fixture
def alone(write: Callable[..., list[str]], tmp_path: Path, still_model: Path) -> Path:
    """A run of one process, without dropout."""
    return train(tmp_path, write("alone", model=still_model), 1)


def test_two_processes_give_the_run_of_one(
    alone: Path, write: Callable[..., list[str]], tmp_path: Path, still_model: Path, proof: Proof
) -> None:
    expected, ledger = steps_of(alone), files.read_json_lines(alone / "ledger.jsonl")
    worst = 0.0
    for how in ("ddp", "fsdp2"):
        run = train(tmp_path, write(how, {"training.parallel": how}, model=still_model), 2)
        found = steps_of(run)
        assert files.read_json_lines(run / "ledger.jsonl") == ledger and len(ledger) == 12
        for step, other in zip(found, expected, strict=True):
            assert (step["step"], step["samples"], step["tokens"]) == (other["step"], other["samples"], other["tokens"])
            worst = max(worst, abs(step["loss"] - other["loss"]) / other["loss"])
        assert [step["scores"] for step in found if step.get("scores")] == [
            {"validation": pytest.approx(step["scores"]["validation"], rel=1e-4)} for step in expected if step.get("scores")
        ]
        assert scores_of(run) == pytest.approx(scores_of(alone), rel=1e-4)
        assert [line["id"] for line in files.read_json_lines(run / "reference.jsonl")] == [
            line["id"] for line in files.read_json_lines(alone / "reference.jsonl")
        ]
        assert sum(len(line) for line in (run / "quarantine.jsonl").open()) == 0
        _loads_with_plain_transformers(run)
    proof(
        item="14",
        promise="a whole run of 2 processes (ddp, fsdp2) is the run of 1: loss curve, rows of every step, scores",
        asked="loss within 1e-5",
        reached=f"{worst:.1e} at worst in 12 steps, same rows, same scores",
        ok=worst <= 1e-5,
    )


def _loads_with_plain_transformers(run: Path) -> None:
    """model/ is one whole model, and gives the logits that the run wrote down."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert [file.name for file in (run / "model").glob("*.safetensors")] == ["model.safetensors"]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    line = files.read_json_lines(run / "reference.jsonl")[0]
    with torch.inference_mode():
        logits = model.eval()(**tokenizer(line["text"], return_tensors="pt")).logits[0]
    assert logits.tolist() == pytest.approx(line["logits"], abs=1e-4)


def test_only_process_0_prepares_data(write: Callable[..., list[str]], tmp_path: Path) -> None:
    words = write("run", {"data.cache": False, "data.max_length": 33, "training.max_steps": 2})
    train(tmp_path, words, 2, fault={"name": "no preparation", "ranks": [1]})
    fails = ranks.together(
        tmp_path / "control", 2, "ranked:luthier", [*words, f"output={tmp_path / 'fails'}"], {"name": "no preparation", "ranks": [0]}
    )
    assert fails.codes[0] == 1 and "only process 0 prepares" in fails.said[0]


# ------------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(("how", "sizes"), [("ddp", (2, 1, 3)), ("fsdp2", (2, 1, 3))])
def test_a_run_goes_on_with_another_number_of_processes(
    how: str, sizes: tuple[int, ...], write: Callable[..., list[str]], tmp_path: Path, still_model: Path, proof: Proof
) -> None:
    pooled = {"training.parallel": how, "model.head": {"pooling": "mean", "hidden": [8], "dropout": 0.0}}
    whole = train(tmp_path, write("whole", pooled, model=still_model), 2)
    words = write("run", pooled, model=still_model)
    run = run_of(words)
    resume = ["train", "--resume", str(run)]
    ranks.all_well(tmp_path / "said", sizes[0], "ranked:train_until", words, 5)
    assert checkpoints_of(run) == [4]
    assert (run / "checkpoints" / "step-00000004" / "optimiser").is_dir() == (how == "fsdp2"), "the state of the optimiser is sharded"
    ranks.all_well(tmp_path / "said", sizes[1], "ranked:train_until", resume, 9)
    ranks.all_well(tmp_path / "said", sizes[2], "ranked:luthier", resume)
    curve, expected = [step["loss"] for step in steps_of(run)], [step["loss"] for step in steps_of(whole)]
    worst = max(abs(loss - other) / other for loss, other in zip(curve, expected, strict=True))
    assert files.read_json_lines(run / "ledger.jsonl") == files.read_json_lines(whole / "ledger.jsonl")
    proof(
        item="14",
        promise=f"a {how} run begun by {sizes[0]} processes goes on with {sizes[1]}, then {sizes[2]}; some parameters have no gradient",
        asked="loss within 1e-4 of the run that was not stopped, same rows",
        reached=f"{worst:.1e} at worst in {len(curve)} steps, same rows",
        ok=worst <= 1e-4,
    )


@pytest.mark.parametrize("how", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_a_resume_of_two_processes_is_bit_exact(how: str, write: Callable[..., list[str]], tmp_path: Path, proof: Proof) -> None:
    whole = train(tmp_path, write("whole", {"training.parallel": how}), 2)
    words = write("run", {"training.parallel": how})
    ranks.all_well(tmp_path / "said", 2, "ranked:train_until", words, 7)
    run = run_of(words)
    ranks.all_well(tmp_path / "said", 2, "ranked:luthier", ["train", "--resume", str(run)])
    same = steps_of(run) == steps_of(whole) and weights_hash(run) == weights_hash(whole)
    if how == "fsdp2":
        other = train(tmp_path, write("other", {"training.parallel": how, "training.seed": 1}), 2)
        assert weights_hash(other) != weights_hash(whole), "the comparison must be able to fail"
    proof(
        item="14",
        promise=f"a resume of 2 processes ({how}) with dropout is bit-exact",
        asked="loss log and weights equal",
        reached="equal" if same else "different",
        ok=same,
    )


# ------------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_a_loss_that_is_nan_in_one_process_is_skipped_by_all(
    how: str, write: Callable[..., list[str]], tmp_path: Path, proof: Proof
) -> None:
    words = write("run", {"training.parallel": how, "training.save_every": "2 steps", "data.split": {"test": 0.2}})
    ended = ranks.together(tmp_path / "said", 2, "ranked:luthier", words, {"name": "nan", "rank": 1, "steps": [3, 6, 7, 8]})
    run = run_of(words)
    skipped = [step["step"] for step in steps_of(run) if step.get("skipped")]
    weights = [tensor for step in checkpoints_of(run) for tensor in checkpoint_weights(run, step).values()]
    finite = all(bool(tensor.isfinite().all()) for tensor in weights)
    back_to = [event["back_to"] for event in events_of(run, "diverged")]
    proof(
        item="14",
        promise=f"NaN in 1 of 2 processes ({how}): all skip the step; after three in a row all roll back and stop",
        asked="steps 3, 6, 7, 8 skipped, exit 3, weights finite",
        reached=f"steps {', '.join(map(str, skipped))} skipped, exit {ended.codes}, finite: {finite}, back to {back_to}",
        ok=skipped == [3, 6, 7, 8] and ended.codes == [3, 3] and finite and back_to == ["step-00000006"],
    )
    assert "the third time in a row" in ended.said[0]


@pytest.mark.parametrize(
    ("number", "code", "how"), [(signal.SIGTERM, 143, "ddp"), pytest.param(signal.SIGINT, 130, "fsdp2", marks=pytest.mark.slow)]
)
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    number: int, code: int, how: str, write: Callable[..., list[str]], tmp_path: Path, proof: Proof
) -> None:
    words = write("run", {"training.parallel": how})
    ended = ranks.together(tmp_path / "said", 2, "ranked:luthier", words, {"name": "signal", "rank": 1, "step": 6, "number": int(number)})
    run = run_of(words)
    steps = steps_of(run)
    proof(
        item="14",
        promise=f"{signal.Signals(number).name} to 1 of 2 processes ({how}): all stop after the same step, with one checkpoint",
        asked=f"exit {code}, the step under way saved",
        reached=f"exit {ended.codes}, stopped after step {len(steps)}, checkpoints {checkpoints_of(run)}",
        ok=ended.codes == [code, code] and len(steps) == 6 and checkpoints_of(run) == [4, 6],
    )
    assert ["stopped after step 6" in said for said in ended.said] == [True, False], "the first says it for all"
    ranks.all_well(tmp_path / "said", 2, "ranked:luthier", ["train", "--resume", str(run)])
    assert [step["step"] for step in steps_of(run)] == list(range(1, 13))


@pytest.mark.parametrize("how", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_a_full_disk_pauses_all(how: str, write: Callable[..., list[str]], tmp_path: Path) -> None:
    words = write("run", {"training.parallel": how, "training.eval_every": "12 steps"})
    ended = ranks.all_well(tmp_path / "said", 2, "ranked:luthier", words, {"name": "full disk", "rank": 0, "seconds": 1.5})
    assert "the disk is full: the run pauses" in ended.said[0] and "there is space again" in ended.said[0]
    assert [step["step"] for step in steps_of(run_of(words))] == list(range(1, 13)) and checkpoints_of(run_of(words))[-1] == 12


@pytest.mark.parametrize(
    ("kind", "code", "words_said"), [("bug", 1, "ZeroDivisionError: made for the test"), ("memory", 3, "process 1 ran out of memory")]
)
def test_an_error_in_one_process_ends_the_others(
    kind: str, code: int, words_said: str, write: Callable[..., list[str]], tmp_path: Path
) -> None:
    words = write("run")
    ended = ranks.together(tmp_path / "said", 2, "ranked:luthier", words, {"name": "raises", "rank": 1, "step": 3, "kind": kind})
    assert ended.codes == [3, code] and ended.seconds < 30
    assert words_said in ended.said[1]
    assert "process 0 stops because another process of the run ended" in ended.said[0] and "Traceback" not in ended.said[0]


# -------------------------------------------------------------------------------------------------------------- do not meet


@pytest.mark.parametrize(
    ("rank", "address"),
    [(1, "127.0.0.1"), (0, "127.0.0.1"), (1, "no-such-host.invalid")],
    ids=["unreachable", "missing peer", "unknown host"],
)
def test_processes_that_do_not_meet_say_where(rank: int, address: str, write: Callable[..., list[str]], tmp_path: Path) -> None:
    words = [*write("run"), "training.rendezvous_timeout=3"]
    group = ranks.Group(tmp_path / "said", 2, address=address).start_one(rank, "ranked:luthier", words)
    ended = group.wait()
    assert ended.codes == [2]
    said = " ".join(group.saying(rank).split())
    assert f"the 2 processes of this run did not meet at {address}:{group.port} within 3 s" in said
    assert f"process {rank}" in said and "training.rendezvous_timeout" in said and "Traceback" not in said
    assert ended.seconds < 10, "3 s, and the time that a busy machine takes to start and end"


# ------------------------------------------------------------------------------------------------------------ the real thing


def launched(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `luthier ... --processes 2 --json` to its end."""
    command = [sys.executable, "-m", "luthier", *words, "--processes", "2", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


def test_the_command_starts_processes_and_ends_them_together(
    alone: Path,
    write: Callable[..., list[str]],
    tmp_path: Path,
    still_model: Path,
    scale: Callable[[int, int], int],
    proof: Proof,
) -> None:
    words = write("run", model=still_model)
    code = str(Path(__file__).with_name("unsafe_place.py"))
    failed = launched([*words, "--code", code], UNSAFE_KILLS="1", UNSAFE_NOTE=str(tmp_path / "killed"))
    seconds = time.time() - (tmp_path / "killed").stat().st_mtime
    answer = json.loads(failed.stdout)
    assert "process 0 was killed by SIGKILL" in answer["error"] and answer["exit_code"] == failed.returncode == 3
    assert failed.stderr.count("error:") == 1 and "Traceback" not in failed.stderr and not processes_of(words)
    resume = ["train", "--resume", str(run_of(words))]
    if scale(0, 1):
        resumed = launched(resume)
        metrics = json.loads(resumed.stdout)
        assert resumed.returncode == 0 and metrics["resumed_from_step"] == 4 and metrics["steps"] == 12, resumed.stderr
    else:
        ended = ranks.all_well(tmp_path / "said", 2, "ranked:luthier", [*resume, "--json"])
        assert [said.count('"resumed_from_step": 4') for said in ended.said] == [1, 0], "one object, from process 0"
    assert scores_of(run_of(words)) == pytest.approx(scores_of(alone), rel=1e-4)
    assert files.read_json_lines(run_of(words) / "ledger.jsonl") == files.read_json_lines(alone / "ledger.jsonl")
    proof(
        item="14",
        promise="--processes 2: one is killed, the others end, one error and one JSON object are shown; --resume goes on to the run of 1",
        asked="within 30 s",
        reached=f"{seconds:.1f} s",
        ok=seconds < 30,
    )


def processes_of(words: list[str]) -> list[str]:
    """Process ids of commands with the recipe of a run in their words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words[1].encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                found.append(entry.name)
    return found
