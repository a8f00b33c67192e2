"""Look at data without training: the commented recipe of `init`, the encoded rows of `check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from luthier.core import yaml
from luthier.data.prepared import Prepared
from luthier.data.rows import Rows

HELD_OUT = """\
  split:
    test: 0.2                # held out to measure; the same rows every time
    # validation: 0.1        # held out to pick the best step
"""
RECIPE = """\
# Written by `luthier init` after a look at {data}: {rows:,} rows, {classes} classes ({examples}).
# Train with:  luthier train {path}
# Every key left out here has a default; docs/recipe.md lists them all.
task: text-classification
model:
  path: {model}        # a hub id or a folder; all-MiniLM-L6-v2 comes with Luthier
data:
  train: {data}
{columns}{split}
# optim:
#   learning_rate: 1e-4      # left out: chosen by the model's width
training:
  epochs: auto               # or a number; auto: more for few rows or many classes
  batch_size: 32
  seed: 0
{weights}"""


def recipe_for(data: str, rows: Rows, *, columns: dict[str, Any], path: str, model: str) -> str:
    """Return a commented recipe for a data file.

    Args:
        data: The file.
        rows: Its rows, as they were read.
        columns: Keys of the data section that name columns.
        path: Where the recipe will stand.
        model: The model to tune.
    """
    classes: dict[str, int] = {}
    for facts in rows.facts["splits"].values():
        for name, count in facts["classes"].items():
            classes[name] = classes.get(name, 0) + count
    shown = ", ".join(list(classes)[:5]) + (", ..." if len(classes) > 5 else "")
    given = [name for name in rows.facts["sources"] if name != "train"]
    held_out = "" if given else HELD_OUT
    unbalanced = max(classes.values()) > 5 * min(classes.values())
    weights = "# loss: {type: cross-entropy, class_weights: balanced}   # the largest class has over 5 times the rows of the smallest\n"
    return RECIPE.format(
        data=_quoted(data),
        rows=sum(classes.values()),
        classes=len(classes),
        examples=shown.replace("\n", " "),
        path=path,
        model=_quoted(model),
        columns="".join(f"  {key}: {_quoted(value)}\n" for key, value in columns.items()),
        split=held_out,
        weights=weights if unbalanced else "",
    )


def encoded_examples(prepared: Prepared, count: int = 2) -> list[dict[str, Any]]:
    """Return the first training rows as the model will see them: tokens padded to one length, mask, label.

    Args:
        prepared: Encoded rows.
        count: How many.
    """
    if prepared.members:
        return [example for member in prepared.members.values() for example in encoded_examples(member, count)]
    from luthier.models.pretrained import open_tokenizer

    tokenizer = open_tokenizer(prepared.tokenizer)
    split = prepared.splits["train"]
    rows = [split.row(index) for index in range(min(count, len(split)))]
    longest = max(len(row.windows[0]) for row in rows)
    examples = []
    for index, row in enumerate(rows):
        tokens = tokenizer.convert_ids_to_tokens(row.windows[0].tolist())
        padding = longest - len(tokens)
        label = _label(prepared, row.target)
        examples.append(
            {
                "id": row.id,
                "text": split.texts([index])[0],
                "tokens": tokens + [tokenizer.pad_token] * padding,
                "mask": [1] * len(tokens) + [0] * padding,
                "label": label,
                "windows": len(row.windows),
            }
        )
    return examples


def _label(prepared: Prepared, target: Any) -> Any:
    if np.ndim(target) and not prepared.multi_label:
        if prepared.labels:
            return " ".join(prepared.labels[int(one)] if int(one) >= 0 else "-" for one in target)
        return "luthier data preview shows what is learnt"
    if not prepared.labels:
        return f"learnt from token {max(1, int(target))} on"
    return [prepared.labels[c] for c in target.nonzero()[0]] if prepared.multi_label else prepared.labels[int(target)]


def default_recipe_path(data: str) -> str:
    """Return where the recipe of a data file goes: beside you, with its name."""
    return f"{Path(data).name.partition('.')[0] or 'recipe'}.yaml"


def _quoted(value: Any) -> str:
    return yaml.dump({"": value}).partition(":")[2].strip()
