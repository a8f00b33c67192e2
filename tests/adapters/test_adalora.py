"""AdaLoRA: ranks go down to the mean that is asked for, the term of the loss is counted once, and a resume chooses as the run did."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import bench_of, steps_of, train_until
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.recipe import resolve
from luthier.stages.running.following import follower_of
from luthier.training.loop import ticks
from luthier.training.step_rules.accumulate import Accumulate

MakeRecipe = Callable[..., dict[str, Any]]
ADALORA = {"type": "adalora", "r": 2, "start_r": 4, "alpha": 16, "warmup": "2 steps", "final": "4 steps"}
SHORT = {"training.max_steps": 12, "training.save_every": "3steps"}
MATRICES = 14


@pytest.fixture(scope="module")
def writing(tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Make a recipe on a tiny decoder with AdaLoRA."""
    folder = tmp_path_factory.mktemp("tiny")
    model = make_tiny_decoder(folder / "llama")
    rows = write_instructions(folder / "rows.jsonl", tiny_instructions(120))

    def make(output: Path, settings: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        return writing_recipe(model, rows, output, {"adapter": ADALORA | (settings or {}), **SHORT, **changes})

    return make


@pytest.fixture(scope="module")
def run(writing: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flow.train(writing(tmp_path_factory.mktemp("runs") / "run")).path


def directions(bench: Any) -> int:
    named = bench.parts["model"].module.named_parameters()
    return sum(int((parameter != 0).sum()) for name, parameter in named if "lora_E" in name)


def test_ranks_go_down_to_the_mean_that_was_asked_for(writing: MakeRecipe, tmp_path: Path) -> None:
    bench = bench_of(writing(tmp_path / "run"))
    steps = ticks(
        bench.saved.source, bench.parts, bench.losses, Accumulate(), bench.saved.optimiser, bench.pace, bench.saved.state, bench.care
    )
    found = {tick.step: directions(bench) for tick in steps}
    assert found[1] == found[2] == 4 * MATRICES, "directions were dropped in the warm-up"
    assert 2 * MATRICES < found[4] < 4 * MATRICES
    assert [found[step] for step in range(8, 13)] == [2 * MATRICES] * 5


def test_the_saved_file_has_no_dropped_direction_and_plain_peft_answers_the_same(run: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from safetensors.torch import load_file

    saved = load_file(run / "model" / "adapter_model.safetensors")
    ranks = {name: len(tensor) for name, tensor in saved.items() if name.endswith("lora_E")}
    assert sum(ranks.values()) == 2 * MATRICES and len(set(ranks.values())) > 1
    model = AutoPeftModelForCausalLM.from_pretrained(run / "model").eval()
    for line in files.read_json_lines(run / "reference.jsonl")[:8]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([line["tokens"]])).logits[0, -1]
        assert logits[line["top_tokens"]].tolist() == pytest.approx(line["logits"], abs=1e-5)
    stored = files.read_json(run / "metrics.json")["scores"]["test"]["loss"]["value"]
    assert flow.evaluate(run)["scores"]["test"]["loss"]["value"] == pytest.approx(stored, abs=1e-6)
    assert flow.merge(run, tmp_path / "merged")["largest_difference"] <= 1e-4
    assert flow.describe_adapter(run)["method"] == "ADALORA"


@pytest.mark.parametrize("step", [5, 10])
def test_a_resume_chooses_as_the_run_did(step: int, run: Path, writing: MakeRecipe, tmp_path: Path) -> None:
    stopped = train_until(writing(tmp_path / "run"), step)
    flow.resume(stopped)
    assert steps_of(stopped) == steps_of(run)
    name = "adapter_model.safetensors"
    assert files.sha256_file(stopped / "model" / name) == files.sha256_file(run / "model" / name)


def test_the_term_of_the_loss_is_counted_once_however_the_step_is_cut(writing: MakeRecipe, tmp_path: Path) -> None:
    bench = bench_of(writing(tmp_path / "run", **{"data.packing": False}))
    split, follower = bench.prepared.splits["train"], follower_of(bench.parts)
    assert follower is not None
    with torch.no_grad():
        wanted = 0.5 * float(follower.penalty())
    found = []
    for size in (8, 2):
        window = [bench.work.collate([split.row(row) for row in range(start, start + size)]) for start in range(0, 8, size)]
        bench.saved.optimiser.zero_grad()
        means = Accumulate().gradient(bench.losses, bench.parts, window, nullcontext())
        assert means["orthogonality"] == pytest.approx(wanted, rel=1e-5)
        assert means["total"] == pytest.approx(means["loss"] + wanted, rel=1e-6)
        found.append([p.grad.clone() for p in bench.parts["model"].module.parameters() if p.grad is not None])
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*found, strict=True))
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in found[0])


def test_without_the_term_the_loss_is_the_task_s(writing: MakeRecipe, tmp_path: Path) -> None:
    bench = bench_of(writing(tmp_path / "run", {"orthogonality": 0}))
    assert bench.losses is bench.work


@pytest.mark.parametrize(
    ("settings", "changes", "said"),
    [
        ({"r": 4}, {}, r"adapter.start_r: .*mean of r 4"),
        ({"warmup": "8 steps"}, {}, r"of 12 steps 8 are warm-up and 4 the end"),
        ({"warmup": "9 samples"}, {}, "counts in epochs, steps or %"),
        ({}, {"training.ema": 0.9}, "averages bring back what adalora drops"),
        ({}, {"training.parallel": "fsdp2"}, "needs every weight in each process"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    settings: dict[str, Any], changes: dict[str, Any], said: str, writing: MakeRecipe, tmp_path: Path
) -> None:
    made = writing(tmp_path / "run", settings, **changes)
    with pytest.raises(ConfigError, match=said):
        resolve(made)
        bench_of(made)
