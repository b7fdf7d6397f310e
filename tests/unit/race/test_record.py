import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.race_facts import entrant, package, record, timing
from runoff.errors import ModelError
from runoff.race.record import (
    BatchTiming,
    Bounds,
    Record,
    Turn,
    other_records,
    part_path,
    read_record,
    record_path,
    relative_spread,
    thin,
    write_record,
)

ONNX, TORCH = package("onnx-fp32"), package("torch-fp32")


def full() -> Record:
    """A record in which every field has something."""
    return record(
        entrant(ONNX, timing([1.0, 1.1, 0.9]), timing([4.0], 8), facts={"runtime": "onnxruntime 1.23"}, retired="slow"),
        entrant(TORCH, failure="hung", hint="wait longer", failed_within=Bounds(1 << 30, 2.0)),
        batches=(1, 8),
        reference_metric={"accuracy": 0.98},
        unmade={"hf-fp32": "cannot be made"},
        notes=("a note",),
    )


def test_record_is_the_same_when_written_and_read_back(tmp_path: Path) -> None:
    path = record_path(tmp_path, "f" * 64)
    write_record(path, full())
    assert read_record(path) == full()
    assert path == tmp_path / "records" / "ffffffffffffffff.json"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}', b"null"], ids=lambda content: repr(content)
)
def test_damaged_record_is_no_record(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.json").write_bytes(content)
    assert read_record(tmp_path / "record.json") is None


def test_record_with_an_unknown_field_is_no_record(tmp_path: Path) -> None:
    data = msgspec.to_builtins(full())
    (tmp_path / "record.json").write_bytes(msgspec.json.encode({**data, "surprise": 1}))
    assert read_record(tmp_path / "record.json") is None


def test_record_of_another_schema_is_no_record(tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", msgspec.structs.replace(full(), schema=2))
    assert read_record(tmp_path / "record.json") is None


def test_missing_record_is_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path / "none.json") is None


def test_failing_to_write_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file where a folder should be")
    with pytest.raises(ModelError, match="cannot write"):
        write_record(record_path(tmp_path, "f" * 64), full())


def test_entrant_replaces_the_one_with_its_id_at_its_place() -> None:
    other = entrant(ONNX, failure="crashed")
    changed = full().with_entrant(other)
    assert [found.candidate.id for found in changed.entrants] == ["onnx-fp32@8", "torch-fp32@8"]
    assert changed.entrant("onnx-fp32@8") == other
    added = changed.with_entrant(entrant(ONNX, num_threads=1))
    assert [found.candidate.id for found in added.entrants][-1] == "onnx-fp32@1"


def test_other_records_are_finished_ones_of_other_fingerprints_newest_first(tmp_path: Path) -> None:
    for age_s, letter in ((30, "a"), (10, "b"), (20, "c")):
        path = record_path(tmp_path, letter * 64)
        write_record(path, msgspec.structs.replace(full(), fingerprint=letter * 64))
        stamp = path.stat().st_mtime - age_s
        os.utime(path, (stamp, stamp))
    write_record(part_path(tmp_path, "d" * 64), msgspec.structs.replace(full(), fingerprint="d" * 64))
    (tmp_path / "records" / "damaged.json").write_text("{")
    assert [found.fingerprint[0] for found in other_records(tmp_path, "c" * 64)] == ["b", "a"]


def test_p50_is_the_median_of_the_rounds() -> None:
    assert timing([1.0, 9.0, 2.0]).p50_ms == 2.0
    assert timing([1.0, 2.0], batch=8).items_per_s == pytest.approx(8 / 1.5e-3)


def test_percentiles_are_over_all_samples_and_interpolated() -> None:
    found = timing([3.0, 1.0, 2.0])
    assert found.percentile_ms(0) == 1.0
    assert found.percentile_ms(50) == 2.0
    assert found.percentile_ms(75) == pytest.approx(2.5)
    assert found.percentile_ms(100) == 3.0


def test_spread_is_that_worked_out_by_hand() -> None:
    # Median 10, deviations 1, 0, 1, so MAD 1; 1.96 x 1.253 x 1.4826 / sqrt(3) / 10.
    assert relative_spread([9.0, 10.0, 11.0]) == pytest.approx(0.21021, rel=1e-4)


def test_spread_of_one_round_is_all_of_it() -> None:
    assert relative_spread([5.0]) == 1.0


def test_one_disturbed_round_does_not_widen_the_spread() -> None:
    assert relative_spread([1.0, 1.0, 1.0, 1.0, 50.0]) == 0.0


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=1000))
def test_thinning_keeps_the_extremes_and_the_order(samples) -> None:
    kept = thin(samples)
    assert len(kept) == min(len(samples), 200)
    assert (kept[0], kept[-1]) == (min(samples), max(samples))
    assert list(kept) == sorted(kept)
    assert set(kept) <= set(samples)


def test_thinning_keeps_the_percentiles() -> None:
    kept = thin([float(value) for value in range(10_001)])
    assert kept[99] == pytest.approx(5000, rel=0.01)


def test_pace_of_several_sessions_is_that_of_their_joint_runs() -> None:
    turns = tuple(Turn(number, 20, 10.0, (9.0, 10.0, 30.0), rate) for number, rate in enumerate((180.0, 200.0, 190.0)))
    several = BatchTiming(8, turns)
    assert several.p50_ms == 10.0, "the latency that each caller sees"
    assert several.pace_ms == pytest.approx(1000 / 190)
    assert several.items_per_s == pytest.approx(8 * 190)
    assert several.spread == pytest.approx(relative_spread([1000 / rate for rate in (180, 200, 190)]))
    assert timing([3.0, 5.0]).pace_ms == timing([3.0, 5.0]).p50_ms


def test_record_from_before_there_were_shapes_is_read(tmp_path: Path) -> None:
    data = msgspec.to_builtins(full())
    for entrant_data in data["entrants"]:
        del entrant_data["checked_batch"], entrant_data["candidate"]["sessions"]
        for timing_data in entrant_data["timings"]:
            for turn in timing_data["turns"]:
                del turn["runs_per_s"]
    (tmp_path / "record.json").write_bytes(msgspec.json.encode(data))
    assert read_record(tmp_path / "record.json") == full()
