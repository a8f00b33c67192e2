"""What a run works on, as plain data that a checkpoint keeps: a resume onto anything else is refused with the name of what changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

from luthier.core import files
from luthier.data.cache import source_hashes
from luthier.data.prepared import Prepared, PreparedSplit
from luthier.models import pretrained
from luthier.recipe import Recipe
from luthier.stages.distillation.teacher import fingerprint_of_teacher

NOT_THE_ROWS = {"train", "validation", "test", "cache", "max_bad_rows", "max_unlearnt_rows", "max_length", "long_texts", "window_stride"}
NOT_THE_NETWORK = {"transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype"}
SPEED_THAT_ROUNDS = (
    "fast_dropout",
    "lean_blocks",
    "tiled_attention",
    "needed_positions",
    "row_embedding",
    "half_frozen",
    "tf32",
    "compile",
)
LONGEST_SHOWN = 400


class Length(Protocol):
    """How long a run is."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the run."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch."""


def identity(recipe: Recipe, prepared: Prepared, pace: Length) -> dict[str, Any]:
    """Return what must be the same when a run goes on, each under the name a person would use.

    An entry is plain data; where it has a `fingerprint`, that is what checkpoints of format 1 compare.

    Args:
        recipe: The recipe with every `auto` decided.
        prepared: Encoded rows.
        pace: Length of the run.
    """
    training = recipe.training
    alone = {name: (recipe.of_task(name), member) for name, member in prepared.members.items()}
    return {
        "data": {name: _data(*of_task) for name, of_task in alone.items()} or _data(recipe, prepared),
        "labels": list(prepared.labels),
        "tokenizer": {name: _tokenizer(*of_task) for name, of_task in alone.items()} or _tokenizer(recipe, prepared),
        "base model": _base_model(recipe),
        "task": {**_task(recipe), "max_grad_norm": training.max_grad_norm}
        | training.model_dump(mode="json", include={"ema", "swa", "neftune", "mixout", "l2_sp"}),
        "schedule": {
            **_plain(recipe.schedule),
            "epochs": training.epochs,
            "max_steps": training.max_steps,
            "total_steps": pace.total_steps,
            "steps_per_epoch": pace.steps_per_epoch,
        },
        "teacher": _teacher(recipe),
        "optimiser": _plain(recipe.optim),
        "unfreezing": _plain(recipe.unfreeze),
        **({"adapter": _plain(recipe.adapter)} if recipe.adapter is not None else {}),
        **({"keep": recipe.keep.model_dump(mode="json", exclude={"run", "report"})} if recipe.keep is not None else {}),
        "arithmetic": {
            "precision": training.precision,
            **{name: getattr(training.speed, name) for name in SPEED_THAT_ROUNDS},
            "most_tokens_at_once": training.most_tokens_at_once,
        },
        "order of the rows": {
            "seed": training.seed,
            "batch_size": training.batch_size,
            "batch_tokens": training.batch_tokens,
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
            "group_by_length": training.group_by_length,
            **({} if training.rows_per_class is None else {"rows_per_class": training.rows_per_class}),
            "step_rule": _rule(training.step_rule),
        },
    }


def _task(recipe: Recipe) -> dict[str, Any]:
    """Return what is learnt, by which loss; of several tasks all but where their rows are."""
    if recipe.tasks is None:
        return {"task": _plain(recipe.task), "loss": _plain(recipe.loss)}
    return {"mixing": _plain(recipe.mixing), **{f"task {one.name}": one.model_dump(mode="json", exclude={"data"}) for one in recipe.tasks}}


def _rule(chosen: Any) -> Any:
    """Return a step rule as plain data: its name alone where it has no settings."""
    plain = chosen if isinstance(chosen, str) else _plain(chosen)
    return plain["type"] if isinstance(plain, dict) and len(plain) == 1 else plain


def _plain(section: Any) -> Any:
    return None if section is None else section.model_dump(mode="json")


def _data(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    sources = prepared.facts.get("sources", {})
    contents = {name: facts.get("sha256") or facts.get("fingerprint") for name, facts in sources.items()}
    settings = recipe.data.model_dump(mode="json", exclude=NOT_THE_ROWS)
    train = prepared.splits["train"]
    return {
        "fingerprint": prepared.facts.get("fingerprint"),
        **{f"{name} file": contents.get(name) for name in ("train", "validation", "test")},
        **settings,
        "training rows": len(train),
        "training rows as read": _contents(train),
    }


def _contents(split: PreparedSplit) -> str:
    """Return a sha256 of which rows are there, in which order, how long, and of what class."""
    digest = hashlib.sha256()
    for column in (split.ids_N, split.num_tokens_N, split.targets):
        digest.update(column.tobytes())
    return digest.hexdigest()


def _tokenizer(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    windows = recipe.data.long_texts == "windows"
    described: dict[str, Any] = {
        "max_length": prepared.max_length,
        "long_texts": recipe.data.long_texts,
        "window_stride": recipe.data.window_stride if windows else None,
    }
    if "template" in prepared.facts.get("tokens", {}):
        described["template"] = prepared.facts["tokens"]["template"]
    file = prepared.tokenizer / "tokenizer.json"
    if not file.is_file():
        return described
    content = files.read_json(file)
    model = dict(content.get("model") or {})
    vocabulary = model.pop("vocab", None)
    parts = {"added_tokens": content.get("added_tokens"), "vocabulary": vocabulary, "model": model}
    parts |= {name: content.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor")}
    return described | {name: _short(part) for name, part in parts.items()}


def _base_model(recipe: Recipe) -> dict[str, Any]:
    trained: dict[str, Any] = {"freeze": recipe.model.freeze, "train": recipe.model.train}
    trained |= {name: getattr(recipe.model, name) for name in ("layers", "keep_layers", "quantize")}
    if recipe.model.scratch is not None:
        return {"fingerprint": _digest(recipe.model.scratch), "scratch": recipe.model.scratch, **trained}
    path = recipe.model.path
    hashes = pretrained.file_hashes(path)
    head = {"head": _plain(recipe.model.head), "extend_vocabulary": recipe.model.extend_vocabulary, **trained}
    fingerprint = {"fingerprint": pretrained.fingerprint_of(path, hashes)}
    if not hashes:
        revision = getattr(pretrained.load_config(path), "_commit_hash", None)
        return fingerprint | head | {"weights": f"{path} at {revision}", "config": None}
    config = files.read_json(Path(pretrained.locate(path)) / "config.json")
    shape = {key: _short(value) for key, value in config.items() if key not in NOT_THE_NETWORK}
    weights = {name: digest for name, digest in hashes.items() if name.endswith(".safetensors")}
    return fingerprint | head | {"weights": _digest(weights), "config": shape}


def _teacher(recipe: Recipe) -> dict[str, Any] | None:
    if recipe.distill is None:
        return None
    settings = recipe.distill.model_dump(mode="json", exclude={"teacher", "logits", "cache", "unlabelled", "unlabelled_share"})
    if recipe.distill.unlabelled is not None:
        rows = source_hashes(recipe.distill.unlabelled) or {}
        settings |= {"unlabelled": _digest(sorted(rows.values())), "unlabelled_share": recipe.distill.unlabelled_share}
    path = recipe.distill.teacher
    content = fingerprint_of_teacher(path) if path else files.sha256_file(Path(str(recipe.distill.logits)).expanduser())
    return {"contents": content, **settings}


def _short(value: Any) -> Any:
    """Return a value as it is, or its sha256 where it is too long to be shown."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return value if len(text) <= LONGEST_SHOWN else _digest(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
