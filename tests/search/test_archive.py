import datetime
import logging
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_maker import make_row, make_rows

from greenprune_core.errors import ConfigError
from hpsearch.archive import (
    SCHEMA,
    SCHEMA_VERSION,
    finished_ids,
    read_archive,
    read_trials,
    rows,
    to_table,
    write_trial,
)
from hpsearch.storage import RunStorage

CONTRACT = {
    "trial_id",
    "state",
    "config_hash",
    "seed",
    "params",
    "val_accuracy",
    "test_accuracy",
    "dense_macs",
    "macs",
    "dense_params",
    "params_kept",
    "energy_j",
    "energy_source",
    "latency_s",
    "train_energy_j",
    "train_energy_source",
    "train_seconds",
    "train_macs",
    "epochs",
    "n_validation",
    "n_test",
    "node",
    "device",
    "started_at",
    "finished_at",
    "version",
    "error",
}


@pytest.fixture
def storage(tmp_path):
    return RunStorage.open(tmp_path / "run")


def test_the_columns_that_others_read_are_there_with_their_units():
    assert set(SCHEMA.names) >= CONTRACT
    assert SCHEMA.field("energy_j").metadata[b"unit"] == b"J"
    assert SCHEMA.field("latency_s").metadata[b"unit"] == b"s"
    assert all(b"unit" in field.metadata for field in SCHEMA)


def test_a_row_comes_back_as_written(storage):
    row = make_row(3, history=[{"epoch": 1, "val_accuracy": 0.5}], error="<script>")
    write_trial(storage, row)
    (read,) = rows(read_trials(storage))
    assert {name: read[name] for name in row} == row
    assert read["latency_s"] is None


def test_writing_a_trial_twice_leaves_one_row(storage):
    write_trial(storage, make_row(1, accuracy=0.1))
    write_trial(storage, make_row(1, accuracy=0.2))
    assert read_trials(storage)["val_accuracy"].to_pylist() == [0.2]
    assert finished_ids(storage) == {"t00001"}


def test_an_empty_archive_has_the_columns_and_no_rows(storage):
    table = read_trials(storage)
    assert (table.num_rows, table.schema.names) == (0, SCHEMA.names)


def test_rows_are_ordered_by_their_end(storage):
    for row in reversed(make_rows(5)):
        write_trial(storage, row)
    assert read_trials(storage)["trial_id"].to_pylist() == [f"t{n:05d}" for n in range(5)]


def test_damaged_parts_are_named_and_the_rest_read(storage, caplog):
    for row in make_rows(3):
        write_trial(storage, row)
    whole = storage.read_bytes("trials/t00001.parquet")
    storage.write_bytes("trials/t00001.parquet", whole[: len(whole) // 2])
    storage.write_bytes("trials/empty.parquet", b"")
    archive = read_archive(storage)
    assert archive.table["trial_id"].to_pylist() == ["t00000", "t00002"]
    assert [path for path, _ in archive.damaged] == ["trials/empty.parquet", "trials/t00001.parquet"]
    with caplog.at_level(logging.WARNING):
        read_trials(storage)
    assert "trials/t00001.parquet" in caplog.text


def test_a_flipped_bit_in_a_value_is_damage_and_no_crash(storage):
    write_trial(storage, make_row(1, error="a long text of which one letter will be wrong"))
    write_trial(storage, make_row(2))
    whole = storage.read_bytes("trials/t00001.parquet")
    place = whole.index(b"one letter will")
    for changed in (whole[place] ^ 0x80, whole[place] ^ 0x01):  # no UTF-8 any more; another letter
        storage.write_bytes("trials/t00001.parquet", whole[:place] + bytes([changed]) + whole[place + 1 :])
        archive = read_archive(storage)
        assert [path for path, _ in archive.damaged] == ["trials/t00001.parquet"]
        assert archive.table["trial_id"].to_pylist() == ["t00002"]


def test_text_that_is_none_is_damage_also_without_checksums(storage):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"trial_id": ["a"], "state": ["complete"], "error": ["letters"]}), sink, compression="none")
    whole = sink.getvalue().to_pybytes().replace(b"letters", b"lett\xd1rs")
    storage.write_bytes("trials/a.parquet", whole)
    assert [path for path, _ in read_archive(storage).damaged] == ["trials/a.parquet"]


def test_a_part_of_a_newer_version_is_refused_in_one_line(storage):
    metadata = {b"greenprune.schema_version": str(SCHEMA_VERSION + 1).encode()}
    newer = SCHEMA.empty_table().replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(newer, sink)
    storage.write_bytes("trials/x.parquet", sink.getvalue().to_pybytes())
    with pytest.raises(ConfigError, match=r"trials/x.parquet .* has version 2; install a newer"):
        read_trials(storage)


def test_a_part_without_the_later_columns_is_read_with_nulls(storage):
    old = pa.table({"trial_id": ["a"], "state": ["complete"], "energy_j": pa.array([1.0], pa.float32()), "gone": [1]})
    sink = pa.BufferOutputStream()
    pq.write_table(old, sink)
    storage.write_bytes("trials/a.parquet", sink.getvalue().to_pybytes())
    (row,) = rows(read_trials(storage))
    assert (row["energy_j"], row["val_accuracy"], "gone" in row) == (1.0, None, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "only columns of the archive, but got 'colour'"),
        ({"state": "running"}, "state is one of complete, stopped, failed, but got 'running'"),
        ({"trial_id": "../x"}, "trial_id is made of letters"),
        ({"val_accuracy": "high"}, "fits the archive.s schema"),
        ({"started_at": datetime.datetime(2026, 1, 1)}, "needs a time zone"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(storage, change, message):
    with pytest.raises(ConfigError, match=message):
        write_trial(storage, make_row(1) | change)
    assert storage.list("trials") == []


def test_nan_is_kept_apart_from_null(storage):
    write_trial(storage, make_row(1, accuracy=math.nan, energy_j=1e-3))
    (row,) = rows(read_trials(storage))
    assert math.isnan(row["val_accuracy"])


def test_numbers_of_numpy_and_text_times_are_taken(storage):
    row = make_row(1, kept_channels={"a": np.array([1, 2])}, macs=np.int64(5), started_at="2026-11-01T00:00:00Z")
    write_trial(storage, row)
    (row,) = rows(read_trials(storage), ["kept_channels", "macs", "started_at"])
    assert row["kept_channels"] == {"a": [1, 2]}
    assert row["started_at"].tzinfo is not None


def test_a_copy_of_a_part_beside_it_is_named_and_does_not_count_twice(storage):
    write_trial(storage, make_row(1))
    storage.write_bytes("trials/t00001 (conflicted copy).parquet", storage.read_bytes("trials/t00001.parquet"))
    found = read_archive(storage)
    assert found.table["trial_id"].to_pylist() == ["t00001"]
    ((path, reason),) = found.damaged
    assert path == "trials/t00001 (conflicted copy).parquet"
    assert reason == "it holds the trial t00001, which has a part of its own"


def test_a_part_under_another_name_is_read_where_it_is_the_only_one(storage):
    write_trial(storage, make_row(1))
    storage.write_bytes("trials/renamed.parquet", storage.read_bytes("trials/t00001.parquet"))
    storage.delete("trials/t00001.parquet")
    assert read_archive(storage).table["trial_id"].to_pylist() == ["t00001"]


@pytest.mark.parametrize(
    ("change", "told"), [({"trial_id": "../../up"}, "the name '../../up'"), ({"state": "odd"}, "is 'odd'")]
)
def test_a_part_that_no_driver_wrote_is_damage(storage, change, told):
    table = to_table([make_row(1) | change])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_bytes("trials/t00001.parquet", sink.getvalue().to_pybytes())
    found = read_archive(storage)
    assert found.table.num_rows == 0
    assert told in found.damaged[0][1]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        *(("repeats", text) for text in ("3", '"x"', "[null]", "[[1, 2]]")),
        *(("history", "[1]"), ("params", "[]"), ("config", "3"), ("details", '"x"')),
        *(("gate_histogram", '["a"]'), ("phase_cost", '{"a": 1}'), ("kept_channels", '{"a": [1]}')),
    ],
)
def test_json_of_another_shape_than_its_columns_is_as_good_as_absent(storage, column, text):
    write_trial(storage, make_row(1) | {column: text})
    assert rows(read_archive(storage).table)[0][column] is None
