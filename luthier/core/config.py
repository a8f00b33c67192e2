"""Sections of a recipe: frozen, typed, strict, with every fault reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer
from pydantic_core import ErrorDetails

from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.core.registry import Registry


class Section(BaseModel):
    """Base of every configuration: frozen, no unknown keys, defaults checked like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True)


class Registered(Section):
    """A section that is picked by `type` from a registry; the class is both the configuration and the thing."""

    registered_name: ClassVar[str]

    @model_serializer(mode="wrap")
    def _with_type(self, handler: Any) -> dict[str, Any]:
        return {"type": self.registered_name, **handler(self)}


S = TypeVar("S", bound=BaseModel)
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "list_type": "a list",
}


def validate(cls: type[S], data: object, *, path: str = "") -> tuple[S | None, list[Fault]]:
    """Check `data` against a section; returns the section, or None with every fault found.

    Args:
        cls: The section class.
        data: Plain keys and values, as read from YAML.
        path: Dotted path of the section, put before the path of each fault.
    """
    try:
        return cls.model_validate(data), []
    except ValidationError as error:
        return None, [_fault(cls, detail, path) for detail in error.errors()]


def build_registered(registry: Registry[Any], data: object, *, path: str) -> tuple[Any | None, list[Fault]]:
    """Build the thing that `data` names: a bare name, or `{type: name, ...}`.

    Args:
        registry: Where `type` is looked up.
        data: A name, keys and values with `type`, or an object that is built already.
        path: Dotted path for faults.
    """
    if isinstance(data, Registered):
        return data, []
    if isinstance(data, str):
        data = {"type": data}
    if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
        names = ", ".join(registry.names())
        return None, [Fault(path, f"got {data!r}, wanted a {registry.noun}: a name or {{type: name, ...}}", f"known: {names}")]
    try:
        cls = registry.get(data["type"])
    except ConfigError as error:
        where = path if isinstance(data, str) else f"{path}.type"
        return None, [Fault(where, fault.message, fault.fix) for fault in error.faults]
    return validate(cls, {key: value for key, value in data.items() if key != "type"}, path=path)


def _fault(cls: type[BaseModel], detail: ErrorDetails, path: str) -> Fault:
    where = ".".join([*filter(None, [path]), *(str(part) for part in detail["loc"])])
    if detail["type"] == "extra_forbidden":
        owner = _section_at(cls, detail["loc"][:-1])
        known = list(owner.model_fields) if owner is not None else []
        return Fault(where, "unknown key", did_you_mean(str(detail["loc"][-1]), known))
    if detail["type"] == "missing":
        return Fault(where, "is required")
    message = detail["msg"].removeprefix("Value error, ")
    expected = _EXPECTED.get(detail["type"])
    if expected:
        return Fault(where, f"got {detail['input']!r}, wanted {expected}")
    if detail["type"] == "value_error":
        return Fault(where, message)
    if detail["type"] == "literal_error":
        expected_words = str(detail.get("ctx", {}).get("expected", ""))
        words = [word.strip().strip("'") for word in expected_words.replace(" or ", ", ").split(",")]
        return Fault(where, f"got {detail['input']!r}, wanted {expected_words}", did_you_mean(str(detail["input"]), words))
    return Fault(where, f"got {detail['input']!r}: {message[0].lower()}{message[1:]}")


def _section_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Follow field names down to the section that owns a faulty key."""
    section: type[BaseModel] | None = cls
    for part in location:
        field = section.model_fields.get(str(part)) if section is not None else None
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return section
