"""Two processes that learn from a teacher make the gradient of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ranks
import tiny
from safetensors.torch import load_file

from luthier import flow

NUM_ROWS = 17  # the last step has one row: fewer than there are processes
CASES: dict[str, dict[str, Any]] = {"answers": {}, "layers": {"weight": 0.0, "hidden": 1.0, "attention": 1.0}}
TOLERANCE = 2e-6


def test_two_processes_make_the_gradient_of_one(tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_ROWS))
    wide = tiny.make_tiny_model(tmp_path / "wide", width=48, seed=2)
    short = {"training.max_steps": 3, "evaluate.baseline": False, "data.split": {"test": 0}}
    teacher = flow.train(tiny.tiny_recipe(wide, rows, tmp_path / "teacher", short)).path
    model = tiny.make_tiny_model(tmp_path / "still", dropout=0.0)
    recipes = {
        name: tiny.tiny_recipe(model, rows, tmp_path / "run", {"data.split": {"test": 0}, "distill": {"teacher": str(teacher), **settings}})
        for name, settings in CASES.items()
    }
    found = []
    for size in (1, 2):
        ranks.all_well(tmp_path / str(size), size, "gradients:measure", recipes, "ddp", str(tmp_path / f"{size}.safetensors"))
        found.append({key: tensor for key, tensor in load_file(tmp_path / f"{size}.safetensors").items() if not key.endswith("tokens")})
    one, two = found
    assert one.keys() == two.keys()
    for name in CASES:
        keys = [key for key in one if key.startswith(f"{name}|") and "|gradient|" in key]
        length = sum(float(one[key].square().sum()) for key in keys) ** 0.5
        apart = sum(float((one[key] - two[key]).square().sum()) for key in keys) ** 0.5
        assert length > 1e-3 and apart <= TOLERANCE * length, name
