"""The `model` section of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from luthier.core import paths
from luthier.core.config import Section


class Head(Section):
    """How hidden states become class scores.

    With every field at its default the model family's own head is used, and plain transformers loads the result.
    """

    pooling: Literal["auto", "cls", "mean", "max", "attention"] = Field(
        "auto",
        description="How token states become one vector: auto is the model family's own way; or first token, mean, max, attention.",
    )
    hidden: tuple[int, ...] = Field((), description="Widths of hidden layers between the pooled vector and the scores.")
    start: Literal["probe", "zero"] = Field(
        "probe", description="How the new last layer starts: fitted on the pretrained features of up to 3,000 rows, or at 0."
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="Dropout before the scores; none: what the model's config says.")

    @property
    def is_own(self) -> bool:
        """Whether the model family's own head is used."""
        return self.pooling == "auto" and not self.hidden


class ModelSection(Section):
    """Which pretrained model is tuned, and with what head."""

    path: str = Field(
        "all-MiniLM-L6-v2", description="Hub id or folder of a pretrained model in safetensors; all-MiniLM-L6-v2 is the embedded default."
    )
    scratch: dict[str, Any] | None = Field(
        None,
        description="Build the model from nothing instead: architecture (gpt2, llama, ...) and fields of its transformers config.",
    )
    tokenizer: str | None = Field(None, description="Folder or hub id of the tokenizer of a model that is built from nothing.")
    layers: int | None = Field(
        None, ge=1, description="Begin with so many of the model's layers, at even distances from the lowest, as 0, 2, 4 of 6; none: all."
    )
    keep_layers: tuple[int, ...] | None = Field(
        None, description="Begin with these of the model's layers, counted from 0 at the input, such as [0, 2, 4]; none: all."
    )
    head: Head = Field(default_factory=Head, description="How hidden states become class scores.")
    quantize: Literal["nf4", "int8"] | None = Field(
        None,
        description="Hold the matrices of the frozen body in 4 bits (nf4, as QLoRA does) or 8 bits (int8) under an adapter; needs "
        "bitsandbytes; none: as they are.",
    )
    extend_vocabulary: bool = Field(True, description="Add the characters of the training rows that the tokenizer does not know.")
    freeze: int | Literal["body"] | tuple[str, ...] | None = Field(
        None,
        description="What is not trained: a number k for the embeddings and the lower k layers, body for everything but the head, or a "
        "list of globs on names of parameters, such as [embeddings, attention]; dropout is off in a lower part that is not trained at all.",
    )
    train: Literal["bitfit", "norms"] | tuple[str, ...] | None = Field(
        None,
        description="What alone is trained beside the head: bitfit for the biases, norms for the norms, or a list of globs on names of "
        "parameters, such as [encoder.layer.11]; none: what freeze leaves.",
    )

    @field_validator("freeze", mode="before")
    @classmethod
    def _layers_or_body(cls, given: object) -> object:
        if given is None or given == "body":
            return given
        if isinstance(given, list | tuple):
            return _globs(given)
        number = int(given) if isinstance(given, str) and given.strip().lstrip("-").isdigit() else given
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"got {given!r}, wanted a number of layers from 0 on, a list of globs, body, or none")
        return number

    @field_validator("train", mode="before")
    @classmethod
    def _what_is_trained(cls, given: object) -> object:
        if isinstance(given, list | tuple):
            return _globs(given)
        if given not in (None, "bitfit", "norms"):
            raise ValueError(f"got {given!r}, wanted bitfit, norms, or a list of globs, such as [encoder.layer.11]")
        return given

    @model_validator(mode="after")
    def _freeze_or_train(self) -> ModelSection:
        if self.freeze is not None and self.train is not None:
            raise ValueError("freeze says what is not trained, train what alone is: name one of the two")
        return self

    @field_validator("keep_layers")
    @classmethod
    def _ascending(cls, kept: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if kept is not None and (not kept or min(kept) < 0 or list(kept) != sorted(set(kept))):
            raise ValueError(f"got {list(kept)}, wanted different layers in their order, counted from 0, such as [0, 2, 4]")
        return kept

    @model_validator(mode="after")
    def _how_many_or_which(self) -> ModelSection:
        if self.layers is not None and self.keep_layers is not None:
            raise ValueError("layers says how many layers are kept, keep_layers which: name one of the two")
        if self.scratch is not None and (self.layers is not None or self.keep_layers is not None):
            raise ValueError("layers are taken from a trained model; scratch has a field of its own for their number")
        return self

    @field_validator("path", "tokenizer")
    @classmethod
    def _whole_path(cls, written: str | None) -> str | None:
        return paths.expanded(written) if written is not None and "$" in written else written

    @model_validator(mode="before")
    @classmethod
    def _a_text_is_the_path(cls, given: object) -> object:
        return {"path": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _scratch_is_whole(self) -> ModelSection:
        if self.scratch is None and self.tokenizer is not None:
            raise ValueError("a tokenizer is named, but a model from files has its own; name scratch too, or leave the tokenizer out")
        if self.scratch is not None and not isinstance(self.scratch.get("architecture"), str):
            raise ValueError("scratch has no architecture; such as scratch: {architecture: gpt2, n_layer: 8}")
        if self.scratch is not None and self.tokenizer is None:
            raise ValueError("a model from nothing needs a tokenizer; such as tokenizer: gpt2, or a folder with tokenizer.json")
        return self

    @property
    def words(self) -> str:
        """Folder or hub id of the tokenizer."""
        return self.tokenizer or self.path


def _globs(given: list[object] | tuple[object, ...]) -> tuple[str, ...]:
    if not given or not all(isinstance(glob, str) and glob for glob in given):
        raise ValueError(f"got {list(given)!r}, wanted names of parameters or globs on them, such as [encoder.layer.0]")
    return tuple(map(str, given))
