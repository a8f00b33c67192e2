"""The frozen part of a model computed once: from a bench to one whose batches carry what the frozen layers gave.

W windows, T tokens, H width.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from luthier.core.errors import RunStopped, is_out_of_memory
from luthier.core.side_by_side import in_order
from luthier.core.work import Batch
from luthier.data.cache import content_key
from luthier.data.prepared import PreparedSplit
from luthier.models.blocks import blocks_of
from luthier.models.freezing import WORDS, Lower, has_grown, lower_part
from luthier.tasks.task import ClassWork
from luthier.training.inference import CORE_TOKENS, measuring
from luthier.training.speed import prefix_cache
from luthier.training.speed.prefix_cache import GIB, Layout, Piece, in_words
from luthier.training.speed.prefix_feed import EveryRow, Feed, needs_tokens
from luthier.training.speed.prefix_form import Model, choose_form, items_of
from luthier.training.speed.stand_in import TOKENS, Cut, Seen, StandIn
from luthier.training.state import undisturbed
from luthier.training.step_rules import rule_of

if TYPE_CHECKING:
    from luthier.stages.layout.begin import Bench

log = logging.getLogger("luthier")
FILL_TOKENS = 8192
LEAST_FILLED = 0.9  # of a batch of the filling pass is no padding
ROWS_CHECKED = 16
GROWN = ".new"
NOT_IN_THE_STATES = ("_name_or_path", "transformers_version", "id2label", "label2id", "problem_type", "architectures")


def with_prefix(bench: Bench) -> tuple[Bench, float]:
    """Return the bench with stored states of the frozen layers where that pays, and the seconds it took; says what it does.

    Every process calls this; process 0 computes what is not there yet, the others read it.
    """
    recipe = bench.recipe
    if recipe.model.freeze is None and recipe.model.train is None and recipe.unfreeze is None:
        return bench, 0.0
    started = time.perf_counter()
    _say_what_is_frozen(bench)
    speed = recipe.training.speed
    lower = lower_part(bench.parts["model"].module)
    if speed.prefix_cache and lower is None and recipe.unfreeze is not None:
        return _without("every layer has its turn in being trained (unfreeze)", bench)
    if not speed.prefix_cache or lower is None:
        return bench, 0.0
    why = _obstacle(bench)
    if why is not None:
        return _without(why, bench)
    with undisturbed():
        feed = _Filling(bench, StandIn(Cut(lower.body, lower.blocks, lower.embeddings))).feed(whole=_is_whole(bench, lower))
    if isinstance(feed, str):
        return _without(feed, bench)
    return replace(bench, feed=feed), time.perf_counter() - started


def _obstacle(bench: Bench) -> str | None:
    """Return why the states of frozen layers cannot be stored, or None."""
    recipe, work = bench.recipe, bench.work
    if recipe.tasks is not None:
        return "it is there for one task only"
    if not isinstance(work, ClassWork):
        return "it is there for classifiers only"
    if recipe.keep is not None and recipe.keep.replay is not None:
        return "old rows go through the model too (keep.replay)"
    if recipe.data.augment:
        return "the rows are changed at random each epoch (data.augment)"
    if work.loss.mixup is not None and work.loss.mixup.at == "words":
        return "texts are mixed in the word embeddings (loss.mixup.at)"
    if work.loss.smart is not None:
        return "texts are moved in the word embeddings (loss.smart)"
    if recipe.training.neftune is not None or rule_of(recipe.training.step_rule).moves_words:
        what = "the noise" if recipe.training.neftune is not None else "the step rule"
        return f"{what} moves the word embeddings (training.{'neftune' if what == 'the noise' else 'step_rule'})"
    if bench.teaching is not None and bench.teaching.teacher is not None:
        return "the teacher reads every row at every step (distill)"
    if recipe.training.parallel == "fsdp2":
        return "the model is split among processes (training.parallel=fsdp2)"
    return None


def _without(why: str, bench: Bench) -> tuple[Bench, float]:
    if bench.care.world.rank == 0:
        log.warning("no prefix cache: %s; the frozen layers are computed at every step", why)
    return bench, 0.0


def _say_what_is_frozen(bench: Bench) -> None:
    if bench.care.world.rank != 0:
        return
    model = bench.parts["model"].module
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    log.info("%s: %s of %s parameters are trained", _what_is_frozen(bench), f"{trained:,}", f"{everything:,}")
    if has_grown(model) and not any(p.requires_grad for name, p in model.named_parameters() if name.endswith(GROWN)):
        log.warning("the embeddings of the characters that were added are frozen too: they stay the mean of the others")


def _what_is_frozen(bench: Bench) -> str:
    how, train = bench.recipe.model.freeze, bench.recipe.model.train
    if how == "body":
        return "everything but the head is frozen, and dropout in it is off"
    if isinstance(how, int):
        return f"the embeddings{f' and the lower {how} layers' if how else ''} are frozen, and dropout in it is off"
    if bench.recipe.unfreeze is not None and how is None and train is None:
        return "the layers take turns in being trained (unfreeze)"
    if how is not None:
        return f"what fits {', '.join(how)} is frozen"
    named = f"the {WORDS[train]}" if isinstance(train, str) else f"what fits {', '.join(train or ())}"
    return f"everything but the head and {named} is frozen"


def _is_whole(bench: Bench, lower: Lower) -> bool:
    """Whether all blocks are frozen."""
    return lower.body is not None or len(lower.blocks) == len(blocks_of(bench.parts["model"].module))


@dataclass(frozen=True)
class _Filling:
    """Chooses what is stored, finds or makes it, and checks it before it is trusted."""

    bench: Bench
    stand_in: StandIn

    def feed(self, *, whole: bool) -> Feed | str:
        """Return what feeds the training, or why there is none; all processes come to the same."""
        world, model = self.bench.care.world, self._model
        probes = [(self._full(rows), self._short(rows)) for rows in self._rows_checked]
        head = [p for name, p in self.bench.parts["model"].module.named_parameters() if name in self.bench.new and p.requires_grad]
        chosen = choose_form(model, probes, whole=whole, head=head)
        forms = world.gathered(chosen if isinstance(chosen, str) else chosen[0])
        if isinstance(chosen, str) or len(set(forms)) > 1:
            return chosen if isinstance(chosen, str) else "the processes do not agree what is to be stored"
        form, seen = chosen
        layout = self._layout(form, seen)
        key = self._key(form)
        trouble, said = self._make(key, layout, form) if world.rank == 0 else (None, "")
        if trouble := world.shared(trouble):
            return str(trouble)
        states = prefix_cache.opened(prefix_cache.folder_of(key), layout)
        fault = "its file cannot be read by every process" if states is None else None
        if states is not None:
            short = EveryRow(self._short, self._split.num_tokens_N, self._split.num_windows_N) if not needs_tokens(form) else None
            feed = Feed(self.stand_in, states, form, short)
            fault = self._fault(feed)
        faults = [fault for fault in world.gathered(fault) if fault]
        if faults:
            return str(faults[0])
        if world.rank == 0:
            log.info("prefix cache: %s rows, %s, %s", f"{len(self._split):,}", in_words(layout.num_bytes), said)
        return feed

    @property
    def _split(self) -> PreparedSplit:
        return self.bench.prepared.splits["train"]

    @property
    def _model(self) -> Model:
        care = self.bench.care
        return Model(self.bench.parts, self.bench.work.outputs, self.stand_in, care.precision, care.device)

    @property
    def _rows_checked(self) -> list[np.ndarray]:
        """Two batches of rows of all lengths."""
        order = np.argsort(self._split.longest_window_N, kind="stable")
        spread = order[np.unique(np.linspace(0, len(order) - 1, 2 * ROWS_CHECKED).astype(int))]
        return [rows for rows in (spread[0::2], spread[1::2]) if len(rows)]

    def _full(self, rows: np.ndarray) -> Batch:
        return self.bench.work.collate([self._split.row(int(row)) for row in rows])

    def _short(self, rows: np.ndarray) -> Batch:
        """Return a batch with every window cut to one token."""
        found = [self._split.row(int(row)) for row in rows]
        return self.bench.work.collate(
            [
                replace(row, windows=[w[:1] for w in row.windows], type_ids=row.type_ids and [types[:1] for types in row.type_ids])
                for row in found
            ]
        )

    def _layout(self, form: str, seen: Seen) -> Layout:
        dtype = torch.bfloat16 if self.bench.care.precision == "bf16" else torch.float32
        example = seen.states_WTH if seen.pooled_WH is None or form != "pooled" else seen.pooled_WH
        counts_N = self._split.num_tokens_N if form == TOKENS else self._split.num_windows_N
        return Layout(np.asarray(counts_N, np.int64), example.shape[-1], dtype)

    def _key(self, form: str) -> str:
        module: Any = self.bench.parts["model"].module
        config = {name: value for name, value in module.config.to_dict().items() if name not in NOT_IN_THE_STATES}
        return content_key(
            {
                "weights": _frozen_digest(module),
                "config": config,
                "attention": getattr(module.config, "_attn_implementation", None),
                "rows": self._split.token_digest(),
                "data": self.bench.prepared.facts.get("fingerprint"),
                "freeze": self._frozen,
                "form": form,
                "precision": self.bench.care.precision,
                "speed": self.bench.recipe.training.speed.model_dump(exclude={"prefix_cache", "prefix_cache_gib", "keep_memory"}),
                "device": self.bench.care.device.partition(":")[0],
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
        )

    @property
    def _frozen(self) -> int | str:
        """How much of the model is stored: `body`, or so many blocks."""
        lower = lower_part(self.bench.parts["model"].module)
        assert lower is not None, "it was there before"
        return "body" if lower.body is not None else len(lower.blocks)

    def _make(self, key: str, layout: Layout, form: str) -> tuple[str | None, str]:
        """Find or compute the entry; returns why it cannot be, and what was done."""
        folder, most = prefix_cache.folder_of(key), int(self.bench.recipe.training.speed.prefix_cache_gib * GIB)
        if folder.is_dir():
            if prefix_cache.opened(folder, layout) is not None:
                return None, "reused"
            log.warning("the prefix cache %s is damaged, and computed again", folder)
        why = prefix_cache.refusal(layout, most_bytes=most)
        if why:
            return why, ""
        started = time.perf_counter()
        try:
            prefix_cache.make(key, layout, self._pieces(form), most_bytes=most)
        except (OSError, RunStopped) as error:
            return f"it cannot be written: {str(error).splitlines()[0]}", ""
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return "memory ran out while it was made", ""
        return None, f"made in {time.perf_counter() - started:.1f} s"

    def _pieces(self, form: str) -> Iterator[Piece]:
        """Run every row once through the frozen part, in batches of like length."""

        def piece(given: tuple[np.ndarray, Batch]) -> Piece:
            rows, batch = given
            with torch.inference_mode():
                seen = self._model.seen(batch)
                assert seen is not None, "it was seen before"
                return rows, items_of(form, seen, batch)

        on_cpu = self._model.device == "cpu"
        orders = filling_order(self._split.longest_window_N, self._split.num_windows_N, CORE_TOKENS if on_cpu else FILL_TOKENS)
        batches = ((rows, self._full(rows)) for rows in orders)
        with measuring(self.bench.parts):
            yield from in_order(piece, batches) if on_cpu else map(piece, batches)

    def _fault(self, feed: Feed) -> str | None:
        """Compare what is stored with what a training step would compute now, and what the rest makes of it; None where both agree."""
        model = self._model
        load = feed.loading(lambda rows, epoch: self._full(rows))
        for rows in self._rows_checked:
            full = self._full(rows)
            seen = model.seen(full)
            if seen is None or not model.is_close(items_of(feed.form, seen, full), feed.states.items(rows)):
                return "what was stored is not what a training step computes"
            given = replace(model, call=feed.going_on(model.call)).outputs(load(rows, 0))
            if not model.is_close(model.outputs(full), given):
                return "the scores that follow from it are not those of the whole model"
        return None


def filling_order(lengths_N: np.ndarray, num_windows_N: np.ndarray, most_tokens: int = FILL_TOKENS) -> list[np.ndarray]:
    """Return batches of rows of nearly equal length, longest first, each with many tokens.

    Args:
        lengths_N: Length of each row's longest window.
        num_windows_N: Windows of each row.
        most_tokens: Most tokens in a batch, padding included.
    """
    order = np.argsort(-lengths_N, kind="stable")
    batches, start, windows = [], 0, 0
    for place, row in enumerate(order):
        longest = int(lengths_N[order[start]])
        full = (windows + num_windows_N[row]) * longest > most_tokens or lengths_N[row] < LEAST_FILLED * longest
        if full and place > start:
            batches.append(order[start:place])
            start, windows = place, 0
        windows += int(num_windows_N[row])
    return [*batches, order[start:]]


def _frozen_digest(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    frozen = [(name, p.detach()) for name, p in module.named_parameters() if not p.requires_grad]
    for name, tensor in [*frozen, *module.named_buffers()]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
