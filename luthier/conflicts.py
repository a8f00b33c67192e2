"""What in a recipe does not go together: sections that are right by themselves, but not beside one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luthier.core.errors import Fault
from luthier.core.names import did_you_mean
from luthier.tasks.several.faults import faults_of_several
from luthier.tasks.several.scores import scores_of, scores_that_choose
from luthier.training.trackers import trackers


def conflicts_of(recipe: Any) -> list[Fault]:
    """Return everything that does not go together, each with what to change.

    Args:
        recipe: A recipe whose sections are right by themselves.
    """
    faults = []
    no_validation = any(data.validation is None and data.split.validation == 0 for data in recipe.sources)
    for key, value in (("early_stopping", recipe.training.early_stopping), ("best_metric", recipe.training.best_metric)):
        if value is not None and no_validation:
            faults.append(Fault(f"training.{key}", "needs validation rows", "add data.split.validation=0.1 or data.validation=FILE"))
    if recipe.schedule.watches_scores and no_validation:
        what = f"{recipe.schedule.registered_name} goes by validation scores, and there are no validation rows"
        faults.append(Fault("schedule.type", what, "add data.split.validation=0.1 or data.validation=FILE"))
    for tracker in recipe.track.trackers:
        if tracker not in trackers.names():
            faults.append(Fault("track.trackers", f"unknown tracker '{tracker}'", did_you_mean(tracker, trackers.names())))
    if recipe.training.ema is not None and recipe.training.swa is not None:
        faults.append(Fault("training.swa", "is one average of the weights, and training.ema another", "leave one of them out"))
    if recipe.adapter is not None or recipe.model.scratch is not None:
        for name, does in (("mixout", "mixes weights with"), ("l2_sp", "pulls weights back to")):
            if getattr(recipe.training, name) is not None:
                what = f"{does} pretrained ones, and here none of those is trained"
                faults.append(Fault(f"training.{name}", what, f"leave training.{name} out"))
    faults += faults_of_several(recipe, recipe.tasks or ())
    return [
        *faults,
        *_average_faults(recipe),
        *_adapter_faults(recipe),
        *_quantized_faults(recipe),
        *_split_faults(recipe),
        *_row_faults(recipe),
        *_apart_faults(recipe),
        *_head_faults(recipe),
        *_keep_faults(recipe),
        *_distill_faults(recipe),
        *_meeting_faults(recipe),
        *_cosine_faults(recipe),
        *_metric_faults(recipe),
    ]


def _row_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with a task whose rows have answers of their own."""
    if recipe.task.answers_with != "rows":
        return
    name = recipe.task.registered_name
    if recipe.keep is not None and (recipe.keep.labels == "apart" or recipe.keep.old_model):
        key = "keep.old_model" if recipe.keep.old_model else "keep.labels"
        yield Fault(key, f"{name} goes on with the head that it has, and there is no other one", f"leave {key} out")
    if recipe.adapter is not None and getattr(recipe.task, "adds_tokens", False):
        what = "an adapter leaves the vocabulary as it is, and markers that are tokens of their own make it grow"
        yield Fault("task.markers", what, "task.markers=words")


def _apart_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with an encoder that reads one text and a decoder that writes another."""
    if not recipe.task.reads_apart:
        return
    name = recipe.task.registered_name
    if recipe.adapter is not None and recipe.adapter.fills_caches:
        what = f"{recipe.adapter.registered_name} puts keys and values before those of rows in one stack, and {name} has two"
        yield Fault("adapter.type", what, "use adapter.type=prompt-tuning, or adapter.type=lora")


def _head_faults(recipe: Any) -> Iterator[Fault]:
    """Yield a head of our own where the words of the model answer."""
    if recipe.task.answers_with == "text" and not recipe.model.head.is_own:
        what = f"{recipe.task.registered_name} answers with the words of the model, whose own last layer gives their scores"
        yield Fault("model.head", what, "leave model.head.pooling and model.head.hidden out")


def _keep_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with a finished run that is tuned further."""
    if recipe.keep is None:
        return
    if recipe.model.scratch is not None:
        yield Fault("model.scratch", "a finished run has its model", "leave model.scratch out, or keep")
    if recipe.adapter is not None:
        what = "an adapter leaves the old weights as they are, and keep is about weights that are trained"
        yield Fault("adapter", what, f"leave adapter out, or put it on the run's model without keep: model.path={recipe.keep.model}")
    if recipe.training.parallel == "fsdp2":
        yield Fault("keep.run", "needs every weight in each process, and training.parallel=fsdp2 splits them", "use training.parallel=ddp")
    for name in ("layers", "keep_layers"):
        if getattr(recipe.model, name) is not None:
            what = "the old head and the old weights belong to all layers of the run"
            yield Fault(f"model.{name}", what, f"leave model.{name} out, or keep")
    yield from _what_keeps_faults(recipe)


def _what_keeps_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with one of the ways in which old knowledge is kept."""
    if recipe.keep.replay is not None and getattr(recipe.training.step_rule, "moves_words", False):
        name = getattr(recipe.training.step_rule, "registered_name", "")
        fix = "use training.step_rule=accumulate or sam"
        yield Fault("keep.replay", f"training.step_rule={name} moves the words of the new rows alone", fix)
    if recipe.keep.replay is not None and getattr(recipe.training.step_rule, "gathers", False):
        what = "training.step_rule=grad-cache looks at the vectors of the new rows alone"
        yield Fault("keep.replay", what, "use training.step_rule=accumulate with a larger training.batch_size")
    if recipe.keep.old_model and recipe.keep.labels == "join":
        yield Fault("keep.old_model", "the old labels are in the head of the new model (keep.labels=join)", "leave keep.old_model out")
    for name in ("ewc", "fisher_mask"):
        if getattr(recipe.keep, name) is not None and recipe.optim.averages:
            what = f"the average of {recipe.optim.registered_name} would not follow what holds the weights"
            yield Fault(f"keep.{name}", what, "use keep.replay, or optim.type=adamw")
    for name in ("mixup", "smart"):
        if recipe.keep.replay is not None and getattr(recipe.loss, name, None) is not None:
            yield Fault("keep.replay", f"loss.{name} changes the new rows alone", f"leave loss.{name} out, or use keep.ewc")


def _average_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with an optimiser that averages the weights itself."""
    name, schedule = recipe.optim.registered_name, recipe.schedule.registered_name
    if not recipe.optim.averages:
        return
    if schedule != "constant":
        what = f"{name} averages the weights in place of a falling rate, and {schedule} is not constant"
        yield Fault("schedule.type", what, "schedule.type=constant")
    besides = dict.fromkeys(("ema", "swa"), f"{name} averages the weights itself")
    besides |= {"l2_sp": f"the average of {name} would not follow the pull", "mixout": f"the average of {name} would not follow the mixing"}
    for key, what in besides.items():
        if getattr(recipe.training, key) is not None:
            yield Fault(f"training.{key}", what, f"leave training.{key} out, or use optim.type=adamw")
    if recipe.training.parallel == "fsdp2":
        what = f"{name} exchanges whole weights, and training.parallel=fsdp2 splits them"
        yield Fault("optim.type", what, "use training.parallel=ddp, or optim.type=adamw")


def _adapter_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with an adapter."""
    if recipe.adapter is None:
        return
    if recipe.model.scratch is not None:
        yield Fault("adapter", "stands beside a trained model, and model.scratch is untrained", "leave adapter out")
    if recipe.model.freeze is not None or recipe.model.train is not None:
        key = "model.train" if recipe.model.freeze is None else "model.freeze"
        yield Fault(key, "an adapter freezes everything but itself and the head already", f"leave {key} out, or adapter")
    if recipe.adapter.start_from is not None and recipe.tasks is not None:
        what = "an adapter that several tasks share stands in the trunk alone, and is merged at the end"
        yield Fault("adapter.start_from", what, "leave it out, or begin with the merged model: model.path=RUN/merged")
    if recipe.unfreeze is not None:
        yield Fault("unfreeze", "an adapter's layers are trained throughout", "leave unfreeze out, or adapter")
    if recipe.adapter.fills_caches and recipe.training.speed.activation_checkpointing:
        what = f"layers that are computed again lose the keys and values of {recipe.adapter.registered_name}"
        yield Fault("training.speed.activation_checkpointing", what, "leave it off, or use adapter.type=prompt-tuning")
    for name in ("ema", "swa"):
        if recipe.adapter.follows_steps and getattr(recipe.training, name) is not None:
            what = f"averages bring back what {recipe.adapter.registered_name} drops from its weights"
            yield Fault(f"training.{name}", what, f"leave training.{name} out, or use adapter.type=lora")
    for name in ("layers", "keep_layers"):
        if getattr(recipe.model, name) is not None:
            what = "an adapter is saved beside its base, and the base in the files has all its layers"
            yield Fault(f"model.{name}", what, f"leave model.{name} out, or adapter")


def _quantized_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with weights in 4 or 8 bits."""
    kind = recipe.model.quantize
    if kind is None:
        return
    if recipe.adapter is None:
        yield Fault(
            "model.quantize", f"weights in {kind} cannot be trained themselves", "add adapter.type=lora, or leave model.quantize out"
        )
    elif not recipe.adapter.base_may_be_quantized:
        start = getattr(recipe.adapter, "start", None)
        named = recipe.adapter.registered_name + (f" with start {start}" if start else "")
        yield Fault("model.quantize", f"{named} does not go with weights in {kind}", "use adapter.type=lora with adapter.start=default")
    if recipe.training.parallel == "fsdp2":
        yield Fault("model.quantize", f"weights in {kind} cannot be split among processes", "use training.parallel=ddp")


def _distill_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with a teacher."""
    if recipe.distill is None:
        return
    writes = recipe.task.answers_with == "text"
    if writes and recipe.distill.logits is not None:
        what = f"{recipe.task.registered_name} has answers of a whole vocabulary for each token, which no file holds"
        yield Fault("distill.logits", what, "name the teacher itself: distill.teacher=RUN")
    if recipe.task.answers_with == "rows" and recipe.distill.logits is not None:
        what = f"a file has answers that are classes, and {recipe.task.registered_name} answers each row in its own way"
        yield Fault("distill.logits", what, "name the teacher itself: distill.teacher=RUN")
    if getattr(recipe.training.step_rule, "gathers", False):
        what = "grad-cache looks at the vectors of the rows alone, and a teacher adds terms of its own"
        yield Fault("training.step_rule", what, "use training.step_rule=accumulate with a larger training.batch_size")
    if recipe.distill.unlabelled is not None and recipe.task.answers_with != "classes":
        what = f"rows without labels are learnt as classes, and {recipe.task.registered_name} answers with none"
        yield Fault("distill.unlabelled", what, "leave it out, or let the teacher answer these rows first: luthier predict")
    for name in ("hidden", "attention"):
        if not getattr(recipe.distill, name):
            continue
        if writes:
            yield Fault(f"distill.{name}", f"{recipe.task.registered_name} learns from the teacher's answers alone", "leave it out")
        if recipe.training.speed.compile:
            yield Fault(f"distill.{name}", "looks into the layers, and training.speed.compile hides them", "training.speed.compile=false")
        if recipe.adapter is not None and recipe.adapter.wants_rows_apart:
            what = f"{recipe.adapter.registered_name} puts virtual tokens before every row, and the teacher has none"
            yield Fault(f"distill.{name}", what, "leave it out, or use another adapter")
    if recipe.distill.logits is not None and recipe.data.augment:
        what = "the answers in the file are those to the rows as they are, and data.augment changes them"
        yield Fault("distill.logits", what, "leave data.augment out, or name the teacher itself: distill.teacher=RUN")
    yield from _beside_a_teacher(recipe)


def _beside_a_teacher(recipe: Any) -> Iterator[Fault]:
    """Yield other sections that do not go with a teacher."""
    if recipe.keep is not None:
        yield Fault("distill", "the rows of the old run are no rows of the teacher", "leave distill out, or keep")
    if recipe.loss is not None and recipe.loss.smart is not None:
        yield Fault("loss.smart", "the teacher answers texts as they are, and SMART moves them", "leave loss.smart out, or distill")
    if recipe.loss is not None and recipe.loss.mixup is not None:
        yield Fault("loss.mixup", "the teacher answers rows as they are, and mixup mixes them", "leave loss.mixup out, or distill")
    if recipe.tasks is not None:
        what = "a teacher answers one task, and the recipe has several"
        yield Fault("distill", what, "leave distill out, or train that task alone")
    if recipe.training.parallel == "fsdp2":
        yield Fault("distill", "does not go with training.parallel=fsdp2", "use training.parallel=ddp")


def _cosine_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with a head that gives cosines."""
    loss = recipe.loss
    if loss is None or loss.cosine_scale is None:
        return
    others = (("adapter", "an adapter keeps that of the model family"), ("keep", "keep goes on with that of the old run"))
    for key, why in ((key, why) for key, why in others if getattr(recipe, key) is not None):
        what = f"{loss.registered_name} has a head of its own, and {why}"
        yield Fault("loss.type", what, f"leave {key} out, or use loss=cross-entropy")
    if loss.mixup is not None and loss.mixup.at == "head":
        what = f"mixes what a linear layer reads, and the head of {loss.registered_name} reads angles"
        yield Fault("loss.mixup.at", what, "use loss.mixup.at=words")


def _meeting_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with rows that meet in the loss."""
    training, mixup = recipe.training, recipe.loss.mixup if recipe.loss is not None else None
    yield from _task_meeting_faults(recipe)
    yield from _class_order_faults(recipe)
    if recipe.loss is not None and recipe.loss.contrast is not None:
        what = "loss.contrast compares the rows of a batch, and this would cut the batch into pieces"
        if training.gradient_accumulation_steps > 1:
            yield Fault("training.gradient_accumulation_steps", what, "use 1, and a larger training.batch_size")
        if isinstance(training.most_tokens_at_once, int):
            yield Fault("training.most_tokens_at_once", what, "leave it out, or use training.batch_tokens")
        if mixup is not None and mixup.at == "words":
            yield Fault("loss.mixup.at", "a mixed text has no class that loss.contrast could go by", "use loss.mixup.at=head")
    if mixup is not None and mixup.at == "words" and recipe.data.long_texts == "windows":
        what = "mixes texts token by token, and data.long_texts=windows makes several windows of one"
        yield Fault("loss.mixup.at", what, "use loss.mixup.at=head, or data.long_texts=truncate")


def _class_order_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with batches that have some rows of each class."""
    training, key = recipe.training, "training.rows_per_class"
    if training.rows_per_class is None:
        return
    if recipe.task.answers_with != "classes" or recipe.tasks:
        what = "several tasks share batches of one task each" if recipe.tasks else f"{recipe.task.registered_name} has no classes of rows"
        yield Fault(key, what, f"leave {key} out")
    if training.batch_tokens is not None:
        yield Fault(key, "counts rows, and training.batch_tokens counts tokens", "use training.batch_size")
    elif isinstance(training.batch_size, int) and training.batch_size < 2 * training.rows_per_class:
        what = f"{training.rows_per_class} rows of a class leave no room for another class among {training.batch_size}"
        yield Fault(key, what, f"training.batch_size={2 * training.rows_per_class} or more")


def _task_meeting_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with a task whose rows meet in its loss, or with a step rule that gathers them."""
    training, gathers = recipe.training, getattr(recipe.training.step_rule, "gathers", False)
    if not recipe.task.adds_up() and not gathers:
        what = "task.loss compares the rows of a batch, and this would cut the batch into pieces"
        if training.gradient_accumulation_steps > 1 and recipe.tasks is None:
            fix = "use training.step_rule=grad-cache, which compares all rows of a step, or 1 and a larger training.batch_size"
            yield Fault("training.gradient_accumulation_steps", what, fix)
        if isinstance(training.most_tokens_at_once, int):
            yield Fault("training.most_tokens_at_once", what, "use training.step_rule=grad-cache, or training.batch_tokens")
    if not gathers or recipe.tasks is not None:
        return
    if recipe.task.adds_up():
        what = f"gathers rows that meet in the loss of the task, and in that of {recipe.task.registered_name} none do"
        yield Fault("training.step_rule", what, "use accumulate, which gives the same gradient in one pass")
    if training.neftune is not None:
        yield Fault("training.neftune", "draws other noise in each of the two passes of grad-cache", "leave training.neftune out")
    if training.precision == "fp16":
        yield Fault("training.precision", "fp16 does not go with grad-cache", "use training.precision=bf16")
    if recipe.adapter is not None and recipe.adapter.follows_steps:
        what = f"{recipe.adapter.registered_name} adds a term of its own to the loss, and grad-cache looks at vectors alone"
        yield Fault("adapter.type", what, "use adapter.type=lora")


def _split_faults(recipe: Any) -> Iterator[Fault]:
    """Yield what does not go with weights that are split among processes."""
    training = recipe.training
    if training.parallel != "fsdp2":
        return
    asking = [name for name in ("ema", "swa", "neftune", "mixout", "l2_sp") if getattr(training, name) is not None]
    if recipe.loss is not None and recipe.loss.smart is not None:
        what = "needs every weight in each process, and training.parallel=fsdp2 splits them"
        yield Fault("loss.smart", what, "use training.parallel=ddp")
    asking += ["step_rule"] if getattr(training.step_rule, "needs_whole_weights", False) else []
    for name in asking:
        what = "needs every weight in each process, and training.parallel=fsdp2 splits them"
        yield Fault(f"training.{name}", what, "use training.parallel=ddp")
    if training.precision == "fp16":
        fix = "use training.precision=bf16, or training.parallel=ddp"
        yield Fault("training.precision", "fp16 does not go with training.parallel=fsdp2", fix)
    if recipe.optim.looks_at_whole:
        what = f"{recipe.optim.registered_name} needs whole matrices, and training.parallel=fsdp2 splits them"
        yield Fault("optim.type", what, "use training.parallel=ddp, or optim.type=adamw")
    if recipe.adapter is not None and recipe.adapter.follows_steps:
        what = f"{recipe.adapter.registered_name} needs every weight in each process, and training.parallel=fsdp2 splits them"
        yield Fault("adapter.type", what, "use training.parallel=ddp, or adapter.type=lora")
    if recipe.unfreeze is not None:
        yield Fault("unfreeze", "does not go with training.parallel=fsdp2", "leave one of them out")


def _metric_faults(recipe: Any) -> list[Fault]:
    tasks = {entry.name: entry.task for entry in recipe.tasks or ()}
    known = list(dict.fromkeys(score for task in tasks.values() or (recipe.task,) for score in scores_of(task)))
    wanted = [("evaluate.metrics", name, known) for name in recipe.evaluate.metrics or ()]
    if recipe.training.best_metric is not None:
        best = scores_that_choose(tasks) if tasks else known
        wanted.append(("training.best_metric", recipe.training.best_metric, best))
    faults = [Fault(path, f"unknown score '{name}'", did_you_mean(name, among)) for path, name, among in wanted if name not in among]
    return [*faults, *_text_score_faults(recipe)]


def _text_score_faults(recipe: Any) -> Iterator[Fault]:
    """Yield where a score of written texts is wanted when none are written."""
    best, of_texts = recipe.training.best_metric, recipe.task.text_scores
    if best in of_texts:
        what = f"{best} is a score of texts that are written after the training, and steps are chosen while it goes on"
        yield Fault("training.best_metric", what, "use training.best_metric=loss")
    asked = [name for name in recipe.evaluate.metrics or () if name in of_texts]
    if asked and not recipe.task.written_rows:
        yield Fault("evaluate.metrics", f"{asked[0]} is a score of written texts, and task.written_rows=0", "task.written_rows=200")
