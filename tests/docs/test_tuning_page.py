"""What docs/results.md says of ways of tuning: from stored readings to rows that a person reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import tuning_page  # noqa: E402

WHERE = {"hardware": "a machine", "packages": {"torch": "2"}, "measured": "today"}


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def method(variant: str, value: float, trained: float) -> dict[str, Any]:
    sizes = {"trained_share": trained, "trained_parameters": 9.0, "training_seconds": 61.2, "peak_memory_bytes": 2**30}
    settings = {"epochs": 3.0, "batch_size": 32}
    return {
        "recipe": "sst2",
        "variant": variant,
        "metric": "accuracy",
        "score": share(value),
        "seeds": [0, 1],
        "settings": settings,
        **sizes,
    }


def said_of(kind: str, facts: dict[str, Any], *, of: str = "sst2") -> str:
    page = tuning_page.ways_of_tuning({kind: {of: WHERE | facts}}, {})
    return "\n".join(line for line in page.splitlines() if line.startswith("|"))


def test_lora_stands_beside_full_tuning_and_every_method_in_the_table() -> None:
    rows = [method("full", 0.9, 1.0), method("lora", 0.88, 0.0123)]
    said = said_of("methods", {"rows": rows, "workers": 1, "note": ""}, of="compare-methods")
    assert "LoRA 88.0 %, full 90.0 %: 2.0 points less | 2 | today |" in said
    assert "| sst2 | lora | 88.0 % (87.0 to 89.0) | 1.23 % | 61 s | 1,024 MiB | 3 | 2 |" in said


def test_the_best_way_with_few_labels_is_named_beside_plain() -> None:
    ways = {"plain": {"accuracy": share(0.85)}} | {
        name: {"accuracy": share(value), "more": share(value - 0.85)} for name, value in (("soup", 0.86), ("freelb", 0.87))
    }
    said = said_of("few-labels", {"draws": 3, "labels": 10, "ways": ways})
    assert "freelb 87.0 % (86.0 to 88.0), plain 85.0 % (84.0 to 86.0); paired 2.0 (1.0 to 3.0) points | 3 |" in said


def test_robustness_says_how_much_less_the_best_rule_loses() -> None:
    kinds = ("as they are", "character swaps", "synonyms")
    plain = {kind: {"accuracy": share(0.9), "fall": share(0.1)} for kind in kinds}
    rules = {"accumulate": plain} | {
        rule: {kind: {"less": share(less)} for kind in kinds} for rule, less in (("fgm", 0.1), ("freelb", 0.3))
    }
    said = said_of("robustness", {"seeds": 2, "rules": rules})
    assert said.count("freelb 30% less (29% to 31%)") == 2 and "plain loses 10.0 (9.0 to 11.0) points" in said


def test_what_is_forgotten_is_a_mean_over_seeds() -> None:
    ways = {
        "plain": {"seeds": [{"before": 0.9, "after": 0.8}, {"before": 0.9, "after": 0.7}]},
        "ewc": {"seeds": [{"before": 0.9, "after": 0.88}]},
    }
    assert "plain loses 15.0, ewc loses 2.0 | 2 | today" in said_of("forgetting", {"ways": ways}, of="sst2 then banking77")


def test_the_same_lora_by_peft_is_compared_where_whole_runs_were_scored() -> None:
    sides = {name: {"readings": [{"score": score}]} for name, score in (("luthier", 0.885), ("Trainer and peft", 0.873))}
    assert "0.885 against 0.873" in tuning_page.ways_of_tuning({}, {"sst2-lora": WHERE | {"sides": sides}})


def test_the_page_that_is_there_can_be_written_anew() -> None:
    import results

    if not any(store.exists() for store in results.TUNING):
        pytest.skip("nothing was measured")
    stored = {store.stem: json.loads(store.read_text(encoding="utf-8")) for store in results.TUNING if store.exists()}
    page = results.page()
    assert "## Ways of tuning" in page and ("### Methods side by side" in page) == ("methods" in stored)
