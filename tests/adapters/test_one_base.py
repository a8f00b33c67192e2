"""Several adapters on one base: each answers as it does alone, and what none of them trained is in memory once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny

import luthier
from luthier import flow
from luthier.adapters.injection.of_peft import host_of
from luthier.core import files
from luthier.core.errors import ConfigError

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "r": 4},
    "bottleneck": {"type": "bottleneck", "reduction": 4},
    "reft": {"type": "reft", "first": 2},
    "norms": {"type": "layernorm"},
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    model = tiny.make_tiny_model(folder / "bert")
    for name, adapter in ADAPTERS.items():
        labels = [(text, label if name == "lora" else label[::-1]) for text, label in tiny.tiny_rows(60)]
        rows = tiny.write_rows(folder / f"{name}.csv", labels)
        changes = {"adapter": adapter, "model.extend_vocabulary": False, "training.max_steps": 4, "evaluate.baseline": False}
        flow.train(tiny.tiny_recipe(model, rows, folder / name, changes))
    return folder


def weights_of(run: luthier.Run) -> dict[int, int]:
    """How many numbers stand at each place in memory."""
    host, _ = host_of(run._predictor.parts["model"].module)
    return {parameter.data_ptr(): parameter.numel() for parameter in host.parameters()}


def test_each_answers_as_alone_and_the_base_is_held_once(room: Path) -> None:
    texts = [text for text, _ in tiny.tiny_rows(20, seed=3)]
    runs = luthier.load_adapters({name: room / name for name in ADAPTERS})
    assert list(runs) == list(ADAPTERS)
    for name, run in runs.items():
        together, alone = run.predict(texts), luthier.load(room / name).predict(texts)
        assert together == alone
    held = sum({place: number for run in runs.values() for place, number in weights_of(run).items()}.values())
    apart = sum(sum(weights_of(run).values()) for run in runs.values())
    counted = files.read_json(room / "lora" / "metrics.json")["parameters"]["base"]
    heads = 3 * 32 + 3  # untrained, drawn anew for each
    assert apart - held >= 3 * (counted - heads)


def test_another_base_and_a_run_without_an_adapter_are_refused(room: Path, tmp_path: Path) -> None:
    shutil.copytree(room / "reft", tmp_path / "reft")
    config = tmp_path / "reft" / "model" / "adapter_config.json"
    files.write_json(config, {**files.read_json(config), "base_model_name_or_path": "elsewhere/bert"})
    with pytest.raises(ConfigError, match="two: its base is elsewhere/bert, that of 'one' is"):
        luthier.load_adapters({"one": room / "lora", "two": tmp_path / "reft"})
    config.unlink()
    with pytest.raises(ConfigError, match="has no adapter"):
        luthier.load_adapters({"two": tmp_path / "reft"})
