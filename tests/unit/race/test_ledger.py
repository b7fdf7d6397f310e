from pathlib import Path

import msgspec
import pytest

from fakes import model_files, race_facts
from fakes.race_facts import timing
from runoff.models.folder import ModelFolder, add_package, staging
from runoff.race.ledger import find_record, open_ledger, whole_rounds, without_turns
from runoff.race.record import Entrant, RaceSettings, part_path, read_record, record_path

MACHINE = race_facts.environment()
SETTINGS = RaceSettings((1,), "normal-v1 seed 0", 16)


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return model_files.make_folder(tmp_path / "model")


def raced(folder: ModelFolder, environment=MACHINE, *, settings=SETTINGS) -> Entrant:
    """Finish a race of the folder's package and answer its entrant."""
    found = race_facts.entrant(folder.manifest.packages[0], timing([1.0, 1.1]))
    ledger, _ = open_ledger(folder, environment, settings, fresh=False)
    ledger.put(found)
    ledger.finish()
    return found


def reopen(folder: ModelFolder, environment=MACHINE, *, settings=SETTINGS, fresh: bool = False):
    return open_ledger(folder, environment, settings, fresh=fresh)


def test_new_ledger_has_nothing_and_says_nothing_when_no_race_was_run(folder) -> None:
    ledger, notes = reopen(folder)
    assert ledger.record.entrants == ()
    assert ledger.record.fingerprint == MACHINE.fingerprint
    assert ledger.record.facts == MACHINE.fingerprint_facts()
    assert notes == []


def test_every_step_is_on_disk_as_a_race_in_progress(folder) -> None:
    ledger, _ = reopen(folder)
    found = race_facts.entrant(folder.manifest.packages[0], timing([1.0]))
    ledger.put(found)
    stored = read_record(part_path(folder.root, MACHINE.fingerprint))
    assert stored is not None
    assert stored.entrants == (found,)
    assert find_record(folder, MACHINE) == (None, []), "what is in progress decides nothing"


def test_interrupted_race_is_resumed(folder) -> None:
    ledger, _ = reopen(folder)
    found = race_facts.entrant(folder.manifest.packages[0], timing([1.0]))
    ledger.put(found)
    again, notes = reopen(folder)
    assert again.record.entrants == (found,)
    assert notes == ["resumed an interrupted race"]


def test_finished_race_is_reused_and_leaves_no_part(folder) -> None:
    found = raced(folder)
    again, notes = reopen(folder)
    assert again.record.entrants == (found,)
    assert notes == ["reused the record of an earlier race"]
    assert not part_path(folder.root, MACHINE.fingerprint).exists()
    record, why = find_record(folder, MACHINE)
    assert record is not None
    assert (record.entrants, why) == ((found,), [])


def test_race_in_progress_comes_before_a_finished_one(folder) -> None:
    raced(folder)
    ledger, _ = reopen(folder)
    newcomer = race_facts.entrant(folder.manifest.packages[0], num_threads=1)
    ledger.put(newcomer)
    again, notes = reopen(folder)
    assert len(again.record.entrants) == 2
    assert notes == ["resumed an interrupted race"]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (race_facts.environment(torch="2.10.0"), "torch: 2.9.1 -> 2.10.0"),
        (race_facts.environment(openvino=None), "openvino: gone, was 2025.4.0"),
        (race_facts.environment(isa=("avx2", "fma", "amx_bf16")), "cpu.isa: gained amx_bf16"),
        (race_facts.environment(isa=("avx2",)), "cpu.isa: lost fma"),
    ],
    ids=["version", "gone", "gained", "lost"],
)
def test_record_is_invalid_and_says_why_when_the_environment_changes(folder, changed, sentence) -> None:
    raced(folder)
    record, why = find_record(folder, changed)
    assert record is None
    assert len(why) == 1
    assert why[0].endswith(f"does not hold here: {sentence}")
    ledger, notes = reopen(folder, changed)
    assert ledger.record.entrants == ()
    assert notes == why


def test_record_holds_again_when_the_environment_changes_back(folder) -> None:
    raced(folder)
    raced(folder, race_facts.environment(torch="2.10.0"))
    assert find_record(folder, MACHINE)[0] is not None


def test_record_does_not_depend_on_free_memory_and_kernel(folder) -> None:
    raced(folder)
    other = msgspec.structs.replace(
        MACHINE,
        memory=msgspec.structs.replace(MACHINE.memory, available_bytes=1),
        os=msgspec.structs.replace(MACHINE.os, release="7.0"),
    )
    assert find_record(folder, other)[0] is not None


def test_race_is_run_again_when_inputs_differ(folder) -> None:
    raced(folder)
    ledger, notes = reopen(folder, settings=RaceSettings((1,), "data sha256 0", 16))
    assert ledger.record.entrants == ()
    assert notes == ["raced again: the inputs differ from those of the record"]


def test_record_goes_on_at_other_batches_and_tries_again_what_failed(folder) -> None:
    found = raced(folder)
    ledger, _ = reopen(folder)
    ledger.put(race_facts.entrant(folder.manifest.packages[0], num_threads=1, failure="crashed"))
    ledger.finish()
    ledger, notes = reopen(folder, settings=RaceSettings((8, 4), SETTINGS.inputs, 16))
    assert ledger.record.settings.batches == (8, 4, 1)
    assert ledger.record.entrants == (found,)
    assert notes == [f"timings at batch 1 are those of the race of {ledger.record.raced_at}"]


@pytest.mark.parametrize(
    ("asked", "batches", "note"),
    [
        ((1,), (1, 8), "reused the record of an earlier race"),
        ((1, 8), (1, 8), "reused the record of an earlier race"),
        ((8, 1), (8, 1), "went on with the record of an earlier race"),
    ],
)
def test_failure_is_kept_when_no_batch_is_new(folder, asked, batches, note) -> None:
    ledger, _ = reopen(folder, settings=RaceSettings((1, 8), SETTINGS.inputs, 16))
    failed = race_facts.entrant(folder.manifest.packages[0], failure="crashed")
    ledger.put(failed)
    ledger.finish()
    ledger, notes = reopen(folder, settings=RaceSettings(asked, SETTINGS.inputs, 16))
    assert ledger.record.settings.batches == batches
    assert ledger.record.entrants == (failed,)
    assert notes == [note]


def test_record_is_invalid_when_it_is_of_another_model(folder, tmp_path) -> None:
    raced(folder)
    other = model_files.make_folder(tmp_path / "other", b"other weights")
    (folder.root / "records").rename(other.root / "records")
    assert find_record(other, MACHINE) == (None, ["the record of an earlier race is of another model"])
    assert reopen(other)[1] == ["the record of an earlier race is of another model"]


def test_entrants_of_a_package_that_was_made_again_are_dropped(folder) -> None:
    with staging(folder.root) as staged:
        added = add_package(
            folder.root, model_files.package_of("onnx-second", {"model.onnx": b"made once"}, staged), staged
        )
    ledger, _ = reopen(added)
    kept, dropped = (race_facts.entrant(entry) for entry in added.manifest.packages)
    ledger.put(kept)
    ledger.put(dropped)
    with staging(folder.root) as staged:
        again = add_package(
            folder.root, model_files.package_of("onnx-second", {"model.onnx": b"made twice"}, staged), staged
        )
    assert reopen(again)[0].record.entrants == (kept,)


def test_fresh_ledger_forgets_what_is_in_progress_and_keeps_what_is_finished(folder) -> None:
    raced(folder)
    reopen(folder)[0].put(race_facts.entrant(folder.manifest.packages[0], num_threads=1))
    ledger, _ = reopen(folder, fresh=True)
    assert ledger.record.entrants == ()
    assert not part_path(folder.root, MACHINE.fingerprint).exists()
    assert record_path(folder.root, MACHINE.fingerprint).exists(), "until the new race is finished"


def test_damaged_record_is_raced_again_without_a_word(folder) -> None:
    raced(folder)
    record_path(folder.root, MACHINE.fingerprint).write_bytes(b"{")
    ledger, notes = reopen(folder)
    assert (ledger.record.entrants, notes) == ((), [])


def test_turns_of_a_round_that_was_cut_short_are_dropped(folder) -> None:
    found = race_facts.entrant(folder.manifest.packages[0], timing([1.0, 2.0, 3.0]), timing([4.0, 5.0], 8))
    cut = whole_rounds(found, 2, (1, 8))
    assert [len(batch.turns) for batch in cut.timings] == [2, 2]
    assert [len(batch.turns) for batch in whole_rounds(found, 0, (1, 8)).timings] == [0, 0]
    assert whole_rounds(found, 0, (1, 8)).timing(1) is None
    assert [len(batch.turns) for batch in whole_rounds(found, 0, (8,)).timings] == [3, 0], "batch 1 is not raced now"


def test_turns_are_forgotten_at_the_batches_that_are_raced_again(folder) -> None:
    found = race_facts.entrant(folder.manifest.packages[0], timing([1.0]), timing([4.0], 8), retired="too slow")
    assert without_turns(found, (8,)).timings == (timing([1.0]),)
    assert without_turns(found, (8,)).retired is None
