"""Hold rows apart by fractions: stratified, grouped, seeded, with equal texts always on one side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.errors import DataError


def split(table: pa.Table, fractions: Mapping[str, float], *, seed: int, stratify: bool = True) -> dict[str, pa.Table]:
    """Split rows into `train` and the named fractions.

    Rows with equal text (after normalisation) or equal `group` stay together. Every label keeps at least one row in `train`.
    The same rows and seed give the same split.

    Args:
        table: Rows with `key` (equal where texts are equal) and perhaps `label` and `group`.
        fractions: Share of the rows for each further split, such as `{"test": 0.2}`; each in [0, 1), their sum below 1.
        seed: Seed of the shuffling.
        stratify: Keep the share of each label (for many labels: of each set of labels) the same on all sides.

    Returns:
        The splits, rows in their given order; `train` first. Fractions of 0 are left out.

    Raises:
        DataError: if a fraction would hold nothing out.
    """
    fractions = {name: fraction for name, fraction in fractions.items() if fraction > 0}
    if not fractions:
        return {"train": table}
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    units = _units(table)
    sides = _assign(table, units, shares, seed=seed, stratify=stratify)[units]
    parts = {name: table.filter(pa.array(sides == side)) for side, name in enumerate(shares)}
    for name, part in parts.items():
        if part.num_rows == 0:
            raise DataError(
                f"no row is left for {name} ({shares[name]:.0%} wanted): "
                f"{table.num_rows} rows are {units.max(initial=-1) + 1} groups of equal texts that stay together",
                where=f"data.split.{name}",
                fix="give more rows, another fraction, or a file of its own: data.test=...",
            )
    return parts


def folds(table: pa.Table, number: int, *, seed: int, stratify: bool = True) -> np.ndarray:
    """Return the fold of each row, from 0; -1 for rows that only ever train, as a label's only text must.

    Rows with equal text or equal `group` are of one fold. The same rows and seed give the same folds.

    Args:
        table: Rows with `key` and perhaps `label` and `group`, as for `split`.
        number: Number of folds, at least 2.
        seed: Seed of the shuffling.
        stratify: Keep the share of each label the same in all folds.

    Raises:
        DataError: if a fold would be empty.
    """
    units = _units(table)
    sizes = np.bincount(units)
    order = _order(table, units, seed=seed, stratify=stratify)
    pairs_2P = np.stack(_label_pairs(table, units))
    labels_of_units = np.unique(pairs_2P, axis=1) if pairs_2P.size else pairs_2P
    counts = np.bincount(labels_of_units[1])
    alone = labels_of_units[0, counts[labels_of_units[1]] == 1]
    shared = order[~np.isin(order, alone)]
    sides = _share_out(shared, sizes, np.zeros(len(sizes), dtype=bool), np.full(number, 1 / number))
    sides[alone] = -1
    found = sides[units]
    if len(np.unique(found[found >= 0])) < number:
        raise DataError(
            f"{table.num_rows} rows are {len(shared)} groups of equal texts that stay together: too few for {number} folds",
            where="folds",
            fix="give more rows, or fewer folds",
        )
    return found


def _units(table: pa.Table) -> np.ndarray:
    """Return for each row the number of its unit: rows tied by equal text or equal group, however indirectly."""
    texts = _codes(table["key"])
    if "group" not in table.column_names:
        return texts
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups = _codes(table["group"])
    present = table["group"].is_valid().to_numpy()
    num_texts = int(texts.max(initial=-1)) + 1
    size = num_texts + int(groups.max(initial=-1)) + 1
    edges = coo_array((np.ones(int(present.sum()), dtype=np.int8), (texts[present], num_texts + groups[present])), shape=(size, size))
    _, components = connected_components(edges, directed=False)
    return np.unique(components[texts], return_inverse=True)[1]


def _codes(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Number the distinct values from 0, in the order of their first row; a missing one shares the number 0."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return pc.fill_null(values.dictionary_encode().indices, 0).to_numpy().astype(np.int64)


def _assign(table: pa.Table, units: np.ndarray, shares: Mapping[str, float], *, seed: int, stratify: bool) -> np.ndarray:
    """Return the side of each unit: walk the units stratum by stratum and give each to the side that lacks most rows."""
    sizes = np.bincount(units)
    row_units, row_labels = _label_pairs(table, units)
    order = _order(table, units, seed=seed, stratify=stratify)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    first_place = np.full(int(row_labels.max(initial=-1)) + 1, len(order))
    np.minimum.at(first_place, row_labels, place[row_units])
    stays = np.zeros(len(order), dtype=bool)
    stays[order[first_place[first_place < len(order)]]] = True
    return _share_out(order, sizes, stays, np.array(list(shares.values())))


def _order(table: pa.Table, units: np.ndarray, *, seed: int, stratify: bool) -> np.ndarray:
    """Return the units shuffled, those of one stratum one after the other where that is wanted."""
    shuffled = np.random.default_rng(seed).permutation(int(units.max(initial=-1)) + 1)
    return shuffled[np.argsort(_strata(table, units)[shuffled], kind="stable")] if stratify else shuffled


def _share_out(order: np.ndarray, sizes: np.ndarray, stays: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Give each unit, in order, to the side that lacks most rows; those that stay go to side 0."""
    sides = np.zeros(len(sizes), dtype=np.int64)
    wanted, lacking = shares.tolist(), [0.0] * len(shares)
    for unit, size, stay in zip(order.tolist(), sizes[order].tolist(), stays[order].tolist(), strict=True):
        lacking = [lack + share * size for lack, share in zip(lacking, wanted, strict=True)]
        side = 0 if stay else lacking.index(max(lacking))
        lacking[side] -= size
        sides[unit] = side
    return sides


def _strata(table: pa.Table, units: np.ndarray) -> np.ndarray:
    """Return the stratum of each unit: the label, or set of labels, of its first row."""
    if "label" not in table.column_names:
        return np.zeros(int(units.max(initial=-1)) + 1, dtype=np.int64)
    labels = table["label"].combine_chunks()
    if pa.types.is_list(labels.type):
        labels = pa.array(["\x1f".join(sorted(names)) for names in labels.to_pylist()], pa.string())
    _, first_row = np.unique(units, return_index=True)
    return _codes(labels)[first_row]


def _label_pairs(table: pa.Table, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (unit, label code) for every label of every row."""
    if "label" not in table.column_names:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    labels = table["label"].combine_chunks()
    if not pa.types.is_list(labels.type):
        return units, _codes(labels)
    return units[pc.list_parent_indices(labels).to_numpy()], _codes(pc.list_flatten(labels))
