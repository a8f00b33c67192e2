from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.normalise import equality_keys, normalise
from luthier.data.split import split


def make(texts, labels, groups=None) -> pa.Table:
    columns = {"row": list(range(1, len(texts) + 1)), "text": texts, "label": labels}
    if groups is not None:
        columns["group"] = pa.array(groups, pa.string())
    table = pa.table(columns)
    return table.append_column("key", equality_keys(table))


@st.composite
def tables(draw):
    count = draw(st.integers(20, 120))
    texts = [f"text {number}" for number in draw(st.lists(st.integers(0, 80), min_size=count, max_size=count))]
    labels = draw(st.lists(st.sampled_from("abc"), min_size=count, max_size=count))
    groups = draw(st.lists(st.sampled_from([*(f"g{n}" for n in range(40)), None]), min_size=count, max_size=count))
    return make(texts, labels, groups if draw(st.booleans()) else None)


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 5), st.booleans())
def test_nothing_is_on_two_sides(table, seed, stratify):
    try:
        parts = split(table, {"validation": 0.2, "test": 0.2}, seed=seed, stratify=stratify)
    except DataError:
        return  # so few inseparable groups that a side stays empty, and that is said
    again = split(table, {"validation": 0.2, "test": 0.2}, seed=seed, stratify=stratify)
    assert {name: part["row"].to_pylist() for name, part in parts.items()} == {
        name: part["row"].to_pylist() for name, part in again.items()
    }
    assert sorted(row for part in parts.values() for row in part["row"].to_pylist()) == table["row"].to_pylist()
    assert set(parts["train"]["label"].to_pylist()) == set(table["label"].to_pylist())
    for column in {"key", "group"} & set(table.column_names):
        owners: dict[str, str] = {}
        for name, part in parts.items():
            for value in part[column].to_pylist():
                assert value is None or owners.setdefault(value, name) == name


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("aaaaaabbbc"), min_size=100, max_size=400), st.integers(0, 3))
def test_fractions_and_shares_are_kept(labels, seed):
    parts = split(make([f"text {n}" for n in range(len(labels))], labels), {"validation": 0.1, "test": 0.2}, seed=seed)
    for name, fraction in {"validation": 0.1, "test": 0.2}.items():
        assert abs(parts[name].num_rows - fraction * len(labels)) <= 2
        for label in set(labels):
            assert abs(parts[name]["label"].to_pylist().count(label) - fraction * labels.count(label)) <= 2


def test_seed_matters():
    table = make([f"text {n}" for n in range(100)], ["a", "b"] * 50)
    rows = [split(table, {"test": 0.2}, seed=seed)["test"]["row"].to_pylist() for seed in (0, 1)]
    assert rows[0] != rows[1]


def test_large_groups_keep_near_the_fraction():
    table = make([f"text {n}" for n in range(1000)], ["a", "b"] * 500, [f"g{n // 20}" for n in range(1000)])
    assert 160 <= split(table, {"test": 0.2}, seed=0)["test"].num_rows <= 240


def test_many_labels_keep_each_in_train():
    labels = [["x"], ["x", "y"], ["z"], [], ["y"]] * 20 + [["rare"]]
    table = pa.table({"row": range(101), "text": [f"t{n}" for n in range(101)], "label": pa.array(labels, pa.list_(pa.string()))})
    parts = split(table.append_column("key", table["text"]), {"test": 0.2}, seed=0)
    assert abs(parts["test"].num_rows - 20) <= 1
    assert "rare" in {name for names in parts["train"]["label"].to_pylist() for name in names}
    assert parts["test"]["label"].to_pylist().count(["x", "y"]) == 4


def test_nothing_to_hold_out_is_said():
    with pytest.raises(DataError, match=r"(?s)no row is left for test.*data\.split\.test"):
        split(make(["same"] * 10, ["a", "b"] * 5), {"test": 0.2}, seed=0)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ａｂｃ", "abc"), ("  a \n b ", "A b"), ("a\u3000b", "a b"), ("a\u200bb", "ab"), ("ﬁne", "FINE"), ("１２３，", "123,")],
)
def test_equal_after_normalisation(one, other):
    assert normalise(pa.array([one])) == normalise(pa.array([other]))


@pytest.mark.parametrize(("one", "other"), [("a b", "ab"), ("fine.", "fine"), ("好", "好!")])
def test_different_after_normalisation(one, other):
    assert normalise(pa.array([one])) != normalise(pa.array([other]))
