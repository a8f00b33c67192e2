"""Rule 2 of the design: a class is abstract or final; what varies is passed as a part, not overridden."""

from __future__ import annotations

import ast

from house import Source, dotted, sources

BASES_OF_CONFIGURATION = {"Section", "Registered"}
KINDS_OF_ERROR = "core/errors.py"  # errors are told apart by kind, so they derive from each other
ABSTRACT = {"ABC", "Protocol"}
FEWEST_CLASSES, FEWEST_DERIVED = 60, 25


def classes() -> list[tuple[Source, ast.ClassDef]]:
    return [(source, node) for source in sources() for node in source.nodes if isinstance(node, ast.ClassDef)]


def bases(node: ast.ClassDef) -> list[str]:
    """Last part of the name of each base."""
    return [dotted(base.value if isinstance(base, ast.Subscript) else base).rpartition(".")[2] for base in node.bases]


def test_a_class_is_abstract_or_final() -> None:
    every = classes()
    errors = {node.name for source, node in every if source.path.as_posix().endswith(KINDS_OF_ERROR)}
    open_ = {node.name for _, node in every if ABSTRACT & set(bases(node))} | BASES_OF_CONFIGURATION | errors
    own = {node.name for _, node in every}
    derived = [(source, node, base) for source, node in every for base in bases(node) if base in own]
    faults = [
        f"{source.at(node.lineno)}: {node.name} derives from {base}, which is no abstract class; hand it what varies instead"
        for source, node, base in derived
        if base not in open_
    ]
    assert not faults, "\n".join(faults)
    assert len(every) >= FEWEST_CLASSES and len(derived) >= FEWEST_DERIVED
