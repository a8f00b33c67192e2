"""Several processes that train robustly do what one does: moves of texts and weights do not depend on who computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ranks
import tiny
import yaml
from runs import checkpoint_weights, weights_hash
from safetensors.torch import load_file

NUM_ROWS = 17  # the last step has one row: fewer than there are processes
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "fgm": {"training.step_rule": "fgm"},
    "pgd": {"training.step_rule": {"type": "pgd", "steps": 2}},
    "freelb": {"training.step_rule": {"type": "freelb", "steps": 2}},
    "sam": {"training.step_rule": "sam"},
    "mixout": {"training.mixout": 0.3},
    "smart": {"loss": {"type": "cross-entropy", "smart": {"weight": 1.0, "step_size": 1.0, "epsilon": 1.0}}},
    "noise": {"training.neftune": 3.0},
    "r-drop": {"loss": {"type": "cross-entropy", "r_drop": 1.0}},
}
SAME_WITHOUT_DROPOUT = {"r-drop"}
TOLERANCE = 2e-6
AFTER_THE_STEP: dict[str, dict[str, Any]] = {
    "average and pull": {"training.ema": 0.6, "training.l2_sp": 2.0},
    "mean of steps and mixout": {"training.swa": {"start": "2 steps", "every": "2 steps"}, "training.mixout": 0.2},
}
SETTINGS = {
    "data.split": {"test": 0.2},
    "optim": {"type": "sgd", "learning_rate": 0.2, "head_learning_rate": 0.2},
    "training.max_steps": 6,
    "training.save_every": "2 steps",
    "evaluate.baseline": False,
}


def test_two_processes_make_the_gradient_of_one(tmp_path: Path) -> None:
    model = tiny.make_tiny_model(tmp_path / "still", dropout=0.0)
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_ROWS))
    recipes = {
        name: tiny.tiny_recipe(model, rows, tmp_path / "run", {"data.split": {"test": 0}, **changes}) for name, changes in CASES.items()
    }
    found = []
    for size in (1, 2):
        ranks.all_well(tmp_path / str(size), size, "gradients:measure", recipes, "ddp", str(tmp_path / f"{size}.safetensors"))
        found.append({key: tensor for key, tensor in load_file(tmp_path / f"{size}.safetensors").items() if not key.endswith("tokens")})
    one, two = found
    assert one.keys() == two.keys()
    for name in CASES:
        for step in sorted({key.rpartition("|gradient|")[0] for key in one if key.startswith(f"{name}|") and "|gradient|" in key}):
            keys = [key for key in one if key.startswith(f"{step}|gradient|")]
            length = sum(float(one[key].square().sum()) for key in keys) ** 0.5
            apart = sum(float((one[key] - two[key]).square().sum()) for key in keys) ** 0.5
            assert length > 1e-3 and apart <= TOLERANCE * length, step
            plain = sum(float((one[key] - one[key.replace(name, "plain", 1)]).square().sum()) for key in keys) ** 0.5
            assert (plain > 1e-3 * length) == (name != "plain" and name not in SAME_WITHOUT_DROPOUT), step


@pytest.mark.parametrize("case", AFTER_THE_STEP)
def test_two_processes_leave_the_weights_of_one(case: str, tmp_path: Path) -> None:
    """What is done to the weights beside the optimiser is done alike by all, and goes on alike after a stop."""
    model = tiny.make_tiny_model(tmp_path / "still", dropout=0.0)
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(40))

    def command(name: str) -> list[str]:
        data = tiny.tiny_recipe(model, rows, tmp_path / name, SETTINGS | AFTER_THE_STEP[case])
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
        return ["train", str(tmp_path / f"{name}.yaml")]

    for size in (1, 2):
        ranks.all_well(tmp_path / f"said-{size}", size, "ranked:luthier", command(f"run-{size}"))
    one, two = (load_file(tmp_path / f"run-{size}" / "model" / "model.safetensors") for size in (1, 2))
    last = checkpoint_weights(tmp_path / "run-1", 6)
    assert one.keys() == two.keys()
    for name in one:
        assert float((one[name] - two[name]).abs().max()) <= 1e-5, name
    assert float((one["classifier.weight"] - last["classifier.weight"]).abs().max()) > 1e-4, "what is saved is the average"
    ranks.all_well(tmp_path / "said-stopped", 2, "ranked:train_until", command("stopped"), 3)
    ranks.all_well(tmp_path / "said-again", 2, "ranked:luthier", ["train", "--resume", str(tmp_path / "stopped")])
    assert weights_hash(tmp_path / "stopped") == weights_hash(tmp_path / "run-2")
