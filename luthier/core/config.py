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
        return None, _merged_faults([_fault(cls, detail, path) for detail in error.errors()])


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
        return None, [Fault(path, f"got {data!r}, wanted a name or {{type: name, ...}}", f"known: {names}")]
    try:
        cls = registry.get(data["type"])
    except ConfigError as error:
        where = path if isinstance(data, str) else f"{path}.type"
        return None, [Fault(where, fault.message, fault.fix) for fault in error.faults]
    return validate(cls, {key: value for key, value in data.items() if key != "type"}, path=path)


def _merged_faults(faults: list[Fault]) -> list[Fault]:
    """Return one fault per key: a key that takes several kinds of value is at fault once, wanting any of them."""
    by_path: dict[str, Fault] = {}
    for fault in faults:
        before = by_path.get(fault.path)
        got, separator, wanted = fault.message.partition(", wanted ")
        if before is not None and separator and before.message.startswith(got) and wanted not in before.message:
            fault = Fault(fault.path, f"{before.message} or {wanted}", before.fix or fault.fix)
        elif before is not None:
            fault = before
        by_path[fault.path] = fault
    return list(by_path.values())


def _fault(cls: type[BaseModel], detail: ErrorDetails, path: str) -> Fault:
    location, owner = _follow(cls, detail["loc"])
    where = ".".join([*filter(None, [path]), *location])
    message = detail["msg"].removeprefix("Value error, ")
    expected = _EXPECTED.get(detail["type"])
    if detail["type"] == "extra_forbidden":
        return Fault(where, "unknown key", did_you_mean(str(detail["loc"][-1]), list(owner.model_fields) if owner else []))
    if detail["type"] == "missing":
        return Fault(where, "is required")
    if expected:
        return Fault(where, f"got {detail['input']!r}, wanted {expected}")
    if detail["type"] == "value_error":
        return Fault(where, message)
    if detail["type"] == "literal_error":
        expected_words = str(detail.get("ctx", {}).get("expected", ""))
        words = [word.strip().strip("'") for word in expected_words.replace(" or ", ", ").split(",")]
        fix = did_you_mean(str(detail["input"]), words) if len(words) > 1 else None
        return Fault(where, f"got {detail['input']!r}, wanted {expected_words}", fix)
    return Fault(where, f"got {detail['input']!r}: {message[0].lower()}{message[1:]}")


def _follow(cls: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel] | None]:
    """Return the keys of a fault's place, without pydantic's names for the kinds of a union, and the section that owns the last."""
    keys: list[str] = []
    owner: type[BaseModel] | None = None
    section: type[BaseModel] | None = cls
    for part in location:
        if section is not None:
            owner = section
            field = section.model_fields.get(str(part))
            keys.append(str(part))
            section = _section_of(field.annotation) if field is not None else None
        elif isinstance(part, int):
            keys.append(str(part))
    return keys, owner


def _section_of(annotation: object) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
