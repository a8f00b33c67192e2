"""Every way to tune beside every task: tiny rows and a tiny model for each task, the changes to a recipe that make each method.

A task whose rows are in tests/row_tasks, and what is registered (adapters, optimisers, losses, ...), is found by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import tiny
import torch
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, write_text, writing_recipe
from tiny_seq2seq import make_tiny_seq2seq, pairs_recipe, tiny_pairs, write_pairs

from luthier import flow
from luthier.adapters import adapters
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.core.run_folder import RunFolder
from luthier.data.augment import augmentations
from luthier.losses import losses
from luthier.losses.contrasts import contrasts
from luthier.optim.optimisers import optimisers
from luthier.optim.schedules import schedules
from luthier.optim.unfreezing import unfreezings
from luthier.recipe import resolve
from luthier.serve.predictor import with_adapter
from luthier.stages.layout.begin import Bench
from luthier.stages.results.finish import SETTINGS, save_model
from luthier.stages.running.train import Trainer
from luthier.tasks import tasks
from luthier.training.inference import measuring
from luthier.training.step_rules import step_rules
from luthier.training.world import ALONE

Changes = dict[str, Any]
LORA = {"type": "lora", "r": 4, "alpha": 8}
ONE_BLOCK = {"lisa": {"layers": 1}}
STEPS = 3
ROUNDING, MOST_ROUNDED = 1e-4, 0.01


def _registered(registry: Any, key: str, **besides: Changes) -> dict[str, Changes]:
    return {f"{key} {name}": {key: name, **besides.get(name.replace("-", "_"), {})} for name in registry.names()}


def _adapters() -> dict[str, Changes]:
    found = {f"adapter {name}": {"adapter": adapters.get(name).example().model_dump(mode="json")} for name in adapters.names()}
    variants: dict[str, Changes] = {
        "dora": {"dora": True},
        "rslora": {"rslora": True},
        "pissa": {"start": "pissa"},
        "olora": {"start": "olora"},
        "lora+": {"plus_ratio": 16.0},
    }
    return found | {f"adapter {name}": {"adapter": LORA | changes} for name, changes in variants.items()}


METHODS: dict[str, Changes] = {
    "full": {},
    **_adapters(),
    **{f"adapter lora on {bits}": {"adapter": LORA, "model.quantize": bits} for bits in ("nf4", "int8")},
    "freeze the body": {"model.freeze": "body"},
    "freeze a layer": {"model.freeze": 1},
    "freeze by name": {"model.freeze": ["*.0.*"]},
    "train bitfit": {"model.train": "bitfit"},
    "train norms": {"model.train": "norms"},
    "train by name": {"model.train": ["*.1.*"]},
    **{f"unfreeze {name}": {"unfreeze": {"type": name, "every": "1 step"} | ONE_BLOCK.get(name, {})} for name in unfreezings.names()},
    "unfreeze in reverse": {"unfreeze": {"type": "gradual", "every": "1 step", "order": "up"}},
    "layer decay": {"optim.layer_decay": 0.8},
    "rates by name": {"optim.rates": {"*.1.*": "0.1x"}},
    **_registered(optimisers, "optim.type", schedule_free={"schedule.type": "constant"}),
    **_registered(schedules, "schedule.type"),
    **{f"training.step_rule {name}": {"training.step_rule": name} for name in step_rules.names()},
    "ema": {"training.ema": 0.9},
    "swa": {"training.swa": {"start": "50%", "every": "1 step"}},
    "mixout": {"training.mixout": 0.1},
    "l2-sp": {"training.l2_sp": 0.1},
    "neftune": {"training.neftune": 5.0},
    "bf16": {"training.precision": "bf16"},
    "pieces": {"training.most_tokens_at_once": 60},
    "accumulation": {"training.gradient_accumulation_steps": 2},
    "batch by tokens": {"training.batch_tokens": 100},
    "activation checkpointing": {"training.speed.activation_checkpointing": True},
    **_registered(losses, "loss.type"),
    "loss.r_drop": {"loss.r_drop": 1.0},
    "loss.label_smoothing": {"loss.label_smoothing": 0.1},
    "loss.class_weights": {"loss.class_weights": "balanced"},
    "mixup of words": {"loss.mixup": {"at": "words"}},
    "mixup at the head": {"loss.mixup": {"at": "head"}},
    "smart": {"loss.smart": {}},
    **{f"loss.contrast {name}": {"loss.contrast": name} for name in contrasts.names()},
    **{f"augment {name}": {"data.augment": [name]} for name in augmentations.names()},
    "fewer layers": {"model.layers": 1},
    "a head of our own": {"model.head": {"pooling": "mean", "hidden": [16]}},
    "early stopping": {"training.early_stopping": {"patience": 1}},
}


def _of_row_task(name: str, folder: Path, models: Path) -> Changes:
    module = import_module(f"row_tasks.{name.replace('-', '_')}")
    model = module.make_model(folder / "model") if hasattr(module, "make_model") else models / "encoder"
    return tiny.tiny_recipe(model, module.write(folder), folder / "run", {"task": name, "model.extend_vocabulary": False, **module.CHANGES})


def _of_pairs(name: str, folder: Path, models: Path) -> Changes:
    recipe = pairs_recipe(models / "seq2seq", write_pairs(folder / "rows.jsonl", tiny_pairs(60)), folder / "run")
    return recipe | {"task": {**recipe["task"], "type": name}}


def _of_texts(folder: Path, models: Path, *, several: bool = False) -> Changes:
    rows = tiny.tiny_multi_label_rows(60) if several else tiny.tiny_rows(60)
    changes = {"data.label_separator": "|"} if several else {}
    file = tiny.write_rows(folder / "rows.csv", rows)
    return tiny.tiny_recipe(models / "encoder", file, folder / "run", {"model.extend_vocabulary": False, **changes})


def _of_stars(folder: Path, models: Path) -> Changes:
    changes = {"task": "ordinal-classification", "model.extend_vocabulary": False}
    return tiny.tiny_recipe(models / "encoder", tiny.write_rows(folder / "rows.csv", tiny.tiny_star_rows(60)), folder / "run", changes)


def _of_instructions(folder: Path, models: Path) -> Changes:
    file = write_instructions(folder / "rows.jsonl", tiny_instructions(60))
    return writing_recipe(models / "decoder", file, folder / "run", {"data.packing": False})


def _of_running_text(folder: Path, models: Path) -> Changes:
    return writing_recipe(models / "decoder", write_text(folder / "rows.txt", num_words=1500), folder / "run", {"data.max_length": 24})


CASES: dict[str, Callable[[Path, Path], Changes]] = {
    "text-classification": _of_texts,
    "text-classification, several labels": partial(_of_texts, several=True),
    "ordinal-classification": _of_stars,
    "text-generation": _of_instructions,
    "text-generation, packed": _of_running_text,
    **{name: partial(_of_pairs, name) for name in tasks.names() if tasks.get(name).reads_apart},
    **{name: partial(_of_row_task, name) for name in tasks.names() if tasks.get(name).answers_with == "rows"},
}
"""For each case (a task, and perhaps what its rows are like) what writes its rows and gives its recipe."""


def make_models(folder: Path) -> Path:
    """Write the tiny models that the cases use; returns the folder."""
    tiny.make_tiny_model(folder / "encoder")
    make_tiny_decoder(folder / "decoder")
    make_tiny_seq2seq(folder / "seq2seq")
    return folder


def recipe_of(case: str, folder: Path, models: Path) -> Changes:
    """The recipe of a case, three steps long, with validation rows; its rows go into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = CASES[case](folder, models)
    recipe["data"]["split"] = {"validation": 0.2, "test": 0.2}
    recipe["training"] |= {"max_steps": STEPS, "batch_size": 8, "save_every": "1 step"}
    return recipe


@dataclass(frozen=True)
class Trained:
    """What a few steps of training did.

    Args:
        bench: The training, at its end.
        before: Every parameter before its first step, by name.
        stepped: Names of those that the optimiser has.
        run: Its run folder.
    """

    bench: Bench
    before: dict[str, torch.Tensor]
    stepped: frozenset[str]
    run: RunFolder

    def is_as(self, other: Trained) -> bool:
        """Whether the weights are those of another training, but for rounding, which a first step of Adam makes as large as a step.

        A table of words that holds other rows (`training.speed.row_embedding`) is passed over.
        """
        mine, theirs = parameters_of(self.bench), parameters_of(other.bench)
        if mine.keys() != theirs.keys():
            return False
        pairs = [(tensor, theirs[name]) for name, tensor in mine.items() if tensor.shape == theirs[name].shape]
        unlike = sum(int(((one - another).abs() > ROUNDING).sum()) for one, another in pairs)
        return unlike < MOST_ROUNDED * sum(one.numel() for one, _ in pairs)

    @property
    def moved(self) -> frozenset[str]:
        """Names of the parameters that are others now."""
        return frozenset(name for name, now in parameters_of(self.bench).items() if not torch.equal(now, self.before[name]))


def parameters_of(bench: Bench) -> dict[str, torch.Tensor]:
    """Every parameter that may be trained by name."""
    trained = {name: part.module for name, part in bench.parts.items() if part.mode == "trained"}
    return {f"{part}/{name}": parameter for part, module in trained.items() for name, parameter in module.named_parameters()}


def train(recipe: Changes, changes: Changes, folder: Path) -> Trained | str:
    """Train a few steps with a method, evaluation and checkpoints with it; where it is refused, the keys that are at fault.

    Raises:
        Exception: whatever is no refusal.
    """
    try:
        resolved = resolve(recipe, changes)
        prepared = flow.prepare(resolved)
        run = RunFolder(folder)
        folder.mkdir(parents=True)
        trainer = Trainer.set_up(run, resolved, prepared, resume=False, world=ALONE)
        bench = trainer.bench
        held = {id(p) for group in bench.saved.optimiser.param_groups for p in group["params"]}
        stepped = frozenset(name for name, p in parameters_of(bench).items() if id(p) in held)
        before = {name: p.detach().clone() for name, p in parameters_of(bench).items()}
        done = list(trainer.ticks())
    except ConfigError as refused:
        assert all(fault.message and fault.fix and fault.path for fault in refused.faults), refused
        return ", ".join(sorted({fault.path for fault in refused.faults}))
    assert len(done) == STEPS or "early_stopping" in str(changes), done
    return Trained(bench, before, stepped, run)


def answers_again(trained: Trained, folder: Path) -> float:
    """How far a saved and opened model is from the one that was saved, in what it says of some test rows."""
    bench = trained.bench
    files.make_folder(folder, lambda aside: save_model(bench, aside))
    settings = files.read_json(folder / SETTINGS)
    task = tasks.get(settings["task"])()
    work, parts = with_adapter(task, folder, settings)[1:] if "adapter" in settings else task.restore(folder)
    split = bench.prepared.splits["test"]
    batch = work.collate([split.row(row) for row in range(4)])
    with measuring(bench.parts), measuring(parts):
        there, here = _numbers(bench.work, bench.parts, batch), _numbers(work, parts, batch)
    return max(float((torch.as_tensor(one) - torch.as_tensor(other)).abs().max()) for one, other in zip(there, here, strict=True))


def _numbers(work: Any, parts: Any, batch: Any) -> list[Any]:
    outputs = work.outputs(parts, batch)
    return list(work.numbers(outputs)) if hasattr(work, "numbers") else [outputs.nats_B]
