from __future__ import annotations

import json
import time

import pytest

from luthier.core.errors import ConfigError, DataError
from luthier.data.rows import load_rows
from luthier.data.section import DataSection
from tests.data.conftest import sentence


def sizes(rows) -> dict[str, int]:
    return {name: table.num_rows for name, table in rows.splits.items()}


@pytest.mark.real
@pytest.mark.parametrize(
    ("section", "texts", "rows", "kept"),
    [
        ({"train": "sst2/train.tsv", "test": "sst2/test.tsv", "text": 0, "label": 1}, 2, 3, {"train": 6917, "test": 1821}),
        ({"train": "banking77/train.csv", "test": "banking77/test.csv"}, 7, 7, {"train": 9996, "test": 3080}),
        (
            {"train": "thucnews_titles/dev.txt", "test": "thucnews_titles/test.txt", "text": 0, "label": 1},
            8,
            9,
            {"train": 9991, "test": 10000},
        ),
    ],
)
def test_real_overlaps_are_left_out_of_training(real_data, section, texts, rows, kept):
    section = {key: str(real_data / value) if key in ("train", "test") else value for key, value in section.items()}
    loaded = load_rows(DataSection(**section))
    assert loaded.facts["left_out_as_equal"] == {"test": {"texts": texts, "rows": rows}}
    assert sizes(loaded) == kept
    assert [one.reason for one in loaded.bad] == ["equal to a test row"] * rows


@pytest.mark.real
def test_real_rows_of_sst2_and_hotel_reviews(real_data):
    sst2 = load_rows(DataSection(train=str(real_data / "sst2" / "train.tsv"), text=0, label=1, split={"test": 0}))
    assert sst2.facts["sources"]["train"]["read"] == 6920
    assert sst2.facts["splits"]["train"]["classes"] == {"0": 3310, "1": 3610}
    hotel = load_rows(DataSection(train=str(real_data / "zh_hotel_reviews" / "ChnSentiCorp_htl_all.csv")))
    assert hotel.facts["sources"]["train"]["bad"] == {"empty text": 1}
    assert sizes(hotel) == {"train": 6212, "test": 1553}


def test_given_test_stays_and_training_rows_go(write_csv, good_rows):
    test = [(" " + good_rows[0][0].upper(), "good"), ("new", "bad"), ("new", "bad")]
    rows = load_rows(DataSection(train=write_csv([*good_rows, good_rows[0]]), test=write_csv(test, name="test.csv")))
    assert sizes(rows) == {"train": 39, "test": 3}
    assert [(one.split, one.row, one.reason) for one in rows.bad] == [
        ("train", 1, "equal to a test row"),
        ("train", 41, "equal to a test row"),
    ]
    assert any("2 training rows (1 texts)" in note for note in rows.notes)


def test_training_on_the_test_file_is_refused(write_csv, good_rows):
    source = write_csv(good_rows)
    with pytest.raises(DataError, match="every training row"):
        load_rows(DataSection(train=source, test=source))


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ({}, {"train": 32, "test": 8}),
        ({"split": {"test": 0}}, {"train": 40}),
        ({"split": {"validation": 0.25, "test": 0.25}}, {"train": 20, "validation": 10, "test": 10}),
        ({"split": {"validation": 0.25}}, {"train": 22, "validation": 10, "test": 8}),
    ],
)
def test_fractions(write_csv, good_rows, section, names):
    assert sizes(load_rows(DataSection(train=write_csv(good_rows), **section))) == names


def test_validation_given_holds_nothing_else_out(write_csv, good_rows):
    validation = write_csv([("other one", "good"), ("other two", "bad")], name="validation.csv")
    assert sizes(load_rows(DataSection(train=write_csv(good_rows), validation=validation))) == {"train": 40, "validation": 2}


def test_fraction_and_file_for_one_split(write_csv, good_rows):
    source = write_csv(good_rows)
    with pytest.raises(ConfigError, match=r"data\.split\.test"):
        load_rows(DataSection(train=source, test=source, split={"test": 0.1}))


def test_ids_are_unique_over_the_splits(write_csv, good_rows):
    test = write_csv([(f"new {n}", "good") for n in range(5)], name="test.csv")
    rows = load_rows(DataSection(train=write_csv(good_rows), test=test, split={"validation": 0.2}))
    ids = [one for table in rows.splits.values() for one in table["id"].to_pylist()]
    assert len(set(ids)) == len(ids) == 45
    assert list(rows.splits) == ["train", "validation", "test"]


def test_unknown_label_in_test_is_set_aside(write_csv, good_rows):
    test = [(f"new {n}", "good") for n in range(30)] + [("odd", "goood")]
    rows = load_rows(DataSection(train=write_csv(good_rows), test=write_csv(test, name="test.csv")))
    assert [(one.split, one.row, one.kind, one.text) for one in rows.bad] == [("test", 31, "label that training does not have", "odd")]
    assert "nearest 'good'" in rows.bad[0].reason
    with pytest.raises(DataError, match="label that training does not have: 30"):
        load_rows(DataSection(train=write_csv(good_rows), test=write_csv([(f"n{n}", "?") for n in range(30)], name="test.csv")))


def test_rows_without_training_rows_use_known_labels(write_csv):
    source = write_csv([(f"new {n}", "good") for n in range(30)] + [("odd", "other")], name="test.csv")
    rows = load_rows(DataSection(test=source), labels=["good", "bad"])
    assert sizes(rows) == {"test": 30}
    assert len(rows.bad) == 1


def test_no_data_named():
    with pytest.raises(DataError, match="no data is named"):
        load_rows(DataSection())


def test_one_class_only(write_csv):
    with pytest.raises(DataError, match="only the label 'good'"):
        load_rows(DataSection(train=write_csv([(sentence(n), "good") for n in range(20)])))


@pytest.mark.parametrize(
    "labels", [[f"{n * 0.37:.2f}" for n in range(5000)], [str(n) for n in range(5000)], [f"{n / 7:.4f}" for n in range(30)]]
)
def test_numbers_to_predict_suggest_regression(write_csv, labels):
    with pytest.raises(DataError, match=r"(?s)regression.*data\.label"):
        load_rows(DataSection(train=write_csv([(sentence(n), label) for n, label in enumerate(labels)])))


@pytest.mark.parametrize("count", [5, 11])
def test_star_ratings_are_classes(write_csv, count):
    rows = load_rows(DataSection(train=write_csv([(sentence(n), str(n % count / 2)) for n in range(200)])))
    assert len(rows.facts["splits"]["train"]["classes"]) == count


def test_ids_as_labels(write_csv):
    with pytest.raises(DataError, match="looks like an id or free text"):
        load_rows(DataSection(train=write_csv([(sentence(n), f"customer-{n}") for n in range(50)])))


def test_class_with_one_row_is_noted_and_stays_in_train(write_csv, good_rows):
    rows = load_rows(DataSection(train=write_csv([*good_rows, ("lonely", "rare")])))
    assert any("one row only ('rare')" in note for note in rows.notes)
    assert "rare" in rows.splits["train"]["label"].to_pylist()


def test_facts_are_json_and_tell_duplicates(write_csv, good_rows):
    rows = [*good_rows, (good_rows[0][0].upper(), "bad"), (good_rows[1][0], "bad")]
    loaded = load_rows(DataSection(train=write_csv(rows), split={"test": 0}))
    json.dumps(loaded.facts)
    assert loaded.facts["duplicates"] == {"repeated_rows": 2, "contradictory_texts": 1}
    assert loaded.facts["splits"]["train"]["classes"] == {"bad": 22, "good": 20}
    assert sum(loaded.facts["splits"]["train"]["characters"]["histogram"].values()) == 42


def test_fingerprint_follows_contents_and_settings_not_paths(write_csv, good_rows):
    one, other = write_csv(good_rows), write_csv(good_rows, name="other.csv")
    changed = write_csv([*good_rows, ("more", "good")], name="changed.csv")
    prints = [load_rows(DataSection(train=source)).facts["fingerprint"] for source in (one, other, changed)]
    prints.append(load_rows(DataSection(train=one, split={"seed": 1})).facts["fingerprint"])
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_multi_label_rows(write_csv):
    rows = [(sentence(n), "|".join(name for bit, name in enumerate("abc") if (n % 7 + 1) >> bit & 1)) for n in range(70)]
    loaded = load_rows(DataSection(train=write_csv(rows), label_separator="|"), multi_label=True)
    assert sizes(loaded) == {"train": 56, "test": 14}
    assert loaded.facts["splits"]["train"]["classes"].keys() == {"a", "b", "c"}


def test_groups_stay_together(write_csv):
    rows = [(sentence(n), str(n % 2), f"customer {n // 4}") for n in range(200)]
    source = write_csv(rows, header=("text", "label", "customer"))
    loaded = load_rows(DataSection(train=source, split={"group_by": "customer"}))
    owners = [{(row - 1) // 4 for row in table["row"].to_pylist()} for table in loaded.splits.values()]
    assert not owners[0] & owners[1]


def test_a_hundred_thousand_rows_in_seconds(write_csv):
    source = write_csv([(sentence(n), str(n % 3)) for n in range(100_000)])
    start = time.perf_counter()
    load_rows(DataSection(train=source))
    assert time.perf_counter() - start < 10  # about one second; the limit only catches a wrong order of growth
