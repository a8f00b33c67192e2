"""One task or two: how the labels of the new rows go together with those of the run that is tuned further."""

from __future__ import annotations

import logging

from luthier.core.errors import ConfigError, Fault
from luthier.data.prepared import Prepared
from luthier.recipe import Recipe
from luthier.stages.update.old_run import OldRun

log = logging.getLogger("luthier")
MOST_SHOWN = 5


def with_old_labels(recipe: Recipe) -> Recipe:
    """Return a recipe that says `join` with the labels of the old run first, so that new rows of a single new label will do."""
    assert recipe.keep is not None
    if recipe.task.answers_with == "rows":
        labels = OldRun.of(recipe).labels
        return recipe.changed(data={"labels": labels}) if labels else recipe
    return recipe.changed(data={"labels": OldRun.of(recipe).labels}) if recipe.keep.labels == "join" else recipe


def with_labels_decided(recipe: Recipe, prepared: Prepared) -> Recipe:
    """Return the recipe with `join` or `apart` for `auto`, and what follows from it; says which it is.

    Args:
        recipe: A recipe with `keep`.
        prepared: The new rows.

    Raises:
        ConfigError: if one head is to give one label a row, and several; or new labels, where it cannot grow.
    """
    assert recipe.keep is not None
    old = OldRun.of(recipe)
    if not old.labels or recipe.task.answers_with == "rows":
        _refuse_new_labels(recipe, old, prepared)
        log.info("goes on from %s", old.run.path)
        return recipe.changed(keep={"labels": "join"})
    shared = [label for label in old.labels if label in prepared.labels]
    chosen = recipe.keep.labels
    if chosen == "auto":
        chosen = "join" if shared and prepared.multi_label == old.multi_label else "apart"
    if chosen == "join" and prepared.multi_label != old.multi_label:
        kinds = [("several labels" if several else "one label") for several in (old.multi_label, prepared.multi_label)]
        raise ConfigError([Fault("keep.labels", f"rows of the run have {kinds[0]} each, the new ones {kinds[1]}", "keep.labels=apart")])
    kind = old.recipe.model.head
    head = recipe.model.head.model_copy(update={"pooling": kind.pooling, "hidden": kind.hidden})
    if chosen == "apart":
        log.info("goes on from %s: another task, with a head of its own (keep.labels=apart)", old.run.path)
        return recipe.changed(keep={"labels": chosen}, model={"head": head})
    if recipe.keep.old_model:
        log.warning("keep.old_model writes nothing: the old labels are in the head of the new model")
    new = [label for label in prepared.labels if label not in old.labels]
    if recipe.task.head_gives != "scores":
        _refuse_new_labels(recipe, old, prepared)
    log.info("goes on from %s: the same task (keep.labels=join); %s", old.run.path, _said(len(shared), len(old.labels), new))
    head = head.model_copy(update={"start": "zero"})  # old labels keep their rows of the last layer, nothing is fitted
    return recipe.changed(keep={"labels": chosen}, model={"head": head}, data={"labels": old.labels})


def _refuse_new_labels(recipe: Recipe, old: OldRun, prepared: Prepared) -> None:
    """Refuse labels that the head does not have, where it does not grow."""
    new = [label for label in prepared.labels if label not in old.labels]
    if new:
        names = ", ".join(new[:MOST_SHOWN]) + (" ..." if len(new) > MOST_SHOWN else "")
        what = f"the new rows have labels that '{old.run.path}' does not know ({names}), and the head of {recipe.task.registered_name} "
        fix = f"leave these rows out, or begin a new head on its model without keep: model.path={old.model}"
        raise ConfigError([Fault("keep.run", f"{what}does not grow", fix)])


def _said(num_shared: int, num_old: int, new: list[str]) -> str:
    seen = f"{num_shared} of its {num_old} labels occur in the new rows"
    if not new:
        return f"{seen}, none is new"
    names = ", ".join(new[:MOST_SHOWN]) + (" ..." if len(new) > MOST_SHOWN else "")
    return f"{seen}, {len(new)} new ({names}): the head grows, old labels keep their weights"
