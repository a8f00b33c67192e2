"""Rule 1 of the design: short functions, short files, few parameters. The limits only tighten."""

from __future__ import annotations

from house import Function, sources

MOST_LINES_OF_FUNCTION, LONG_FUNCTION = 100, 60
MOST_LINES_OF_FILE, LONG_FILE = 600, 400
MOST_PARAMETERS = 8
LONG_FUNCTIONS_ALLOWED = 0  # may only shrink
LONG_FILES_ALLOWED = 0  # may only shrink
FEWEST_FILES, FEWEST_FUNCTIONS = 100, 500


def num_lines(function: Function) -> int:
    """Lines from the first decorator to the end."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return (function.end_lineno or first) - first + 1


def num_parameters(function: Function) -> int:
    """Parameters a caller gives; self and cls are not among them. Fields of configs and dataclasses are no parameters."""
    given = function.args
    names = [argument.arg for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]]
    return len([name for name in names if name not in ("self", "cls")]) + (given.vararg is not None) + (given.kwarg is not None)


def test_functions_are_short() -> None:
    found = [(num_lines(function), source.at(function.lineno), function.name) for source in sources() for function in source.functions()]
    too_long = [
        f"{where}: {name} has {lines} lines; cut it into steps with names" for lines, where, name in found if lines > MOST_LINES_OF_FUNCTION
    ]
    long = [f"{where}: {name} has {lines} lines" for lines, where, name in found if lines > LONG_FUNCTION]
    assert not too_long, "\n".join(too_long)
    assert len(long) <= LONG_FUNCTIONS_ALLOWED, f"over {LONG_FUNCTION} lines:\n" + "\n".join(long)
    assert len(long) == LONG_FUNCTIONS_ALLOWED, f"fewer long functions: set LONG_FUNCTIONS_ALLOWED to {len(long)}"
    assert len(found) >= FEWEST_FUNCTIONS


def test_files_are_short() -> None:
    every = sources()
    too_long = [
        f"{source.at(1)}: {source.num_lines} lines; split it by what it is about"
        for source in every
        if source.num_lines > MOST_LINES_OF_FILE
    ]
    long = [f"{source.at(1)}: {source.num_lines} lines" for source in every if source.num_lines > LONG_FILE]
    assert not too_long, "\n".join(too_long)
    assert len(long) <= LONG_FILES_ALLOWED, f"over {LONG_FILE} lines:\n" + "\n".join(long)
    assert len(long) == LONG_FILES_ALLOWED, f"fewer long files: set LONG_FILES_ALLOWED to {len(long)}"
    assert len(every) >= FEWEST_FILES


def test_functions_take_few_parameters() -> None:
    found = [
        (num_parameters(function), source.at(function.lineno), function.name) for source in sources() for function in source.functions()
    ]
    faults = [
        f"{where}: {name} takes {count} parameters; group those that travel together"
        for count, where, name in found
        if count > MOST_PARAMETERS
    ]
    assert not faults, "\n".join(faults)
    assert max(count for count, _, _ in found) > 3 and len(found) >= FEWEST_FUNCTIONS
