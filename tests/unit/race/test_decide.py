import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import golden_decisions, race_facts
from fakes.race_facts import MIB, entrant, manifest, package, record, timing
from runoff.errors import NoCandidate
from runoff.race.decide import Decision, decide
from runoff.race.fidelity import Contract
from runoff.race.rank import NOISE_CEILING
from runoff.race.record import Entrant
from runoff.race.wish import OBJECTIVES, Wish

MACHINE = race_facts.environment()
TORCH, ONNX, OPENVINO = package("torch-fp32"), package("onnx-fp32"), package("openvino-fp32")
THREE = manifest(TORCH, ONNX, OPENVINO)


def reasons(decision: Decision) -> dict[str, str]:
    return {rejection.candidate_id: rejection.reason for rejection in decision.rejections}


@pytest.mark.parametrize("name", golden_decisions.case_names())
def test_decision_is_the_golden_one(name: str) -> None:
    case = golden_decisions.read_case(name)
    decision = golden_decisions.decide_case(case)
    assert (decision.chosen.id if decision.chosen else None) == case.chosen, case.about


@pytest.mark.parametrize("name", golden_decisions.case_names())
def test_decision_is_the_same_when_the_facts_were_written_down_and_read_back(name: str) -> None:
    case = golden_decisions.read_case(name)
    first = golden_decisions.decide_case(case)
    assert first == golden_decisions.decide_case(case)
    assert msgspec.json.decode(msgspec.json.encode(first), type=Decision) == first


def test_every_rejection_is_in_the_error_when_nothing_is_eligible() -> None:
    machine = race_facts.environment(torch=None)
    facts = record(
        entrant(ONNX, failure="crashed with SIGSEGV"),
        entrant(OPENVINO, timing([1.0] * 3), fidelity=race_facts.fidelity(0.5)),
        of=machine,
        unmade={"hf-fp32": "cannot be made"},
    )
    with pytest.raises(NoCandidate) as caught:
        decide(THREE, machine, Wish(), facts).require()
    assert set(caught.value.rejections) == {"torch-fp32", "onnx-fp32@8", "openvino-fp32@8", "hf-fp32"}
    for name, reason in caught.value.rejections.items():
        assert name in str(caught.value)
        assert reason in str(caught.value)
    assert caught.value.rejections["torch-fp32"] == "PyTorch is not installed"


def test_the_first_hint_is_the_error_s_hint() -> None:
    case = golden_decisions.read_case("base_install_torch")
    with pytest.raises(NoCandidate) as caught:
        golden_decisions.decide_case(case).require()
    assert caught.value.hint == "pip install 'runoff[torch-cpu]'"


def test_figures_of_other_files_do_not_count_when_a_package_was_made_again() -> None:
    old = msgspec.structs.replace(entrant(ONNX, timing([0.1] * 3)), package_sha256="0" * 64)
    decision = decide(THREE, MACHINE, Wish(), record(entrant(TORCH, timing([1.0] * 3)), old))
    assert decision.require().id == "torch-fp32@8"
    assert [ranked.figure for ranked in decision.ranking] == [1.0, None, None]


def test_unmade_package_is_no_rejection_when_it_is_there_by_now() -> None:
    facts = record(entrant(TORCH, timing([1.0] * 3)), unmade={"onnx-fp32": "cannot be made: no disk"})
    assert "onnx-fp32" not in reasons(decide(THREE, MACHINE, Wish(), facts))


def test_measured_candidate_comes_before_an_unmeasured_one_of_an_earlier_row() -> None:
    decision = decide(THREE, MACHINE, Wish(), record(entrant(OPENVINO, timing([1.0] * 3))))
    assert [ranked.candidate.id for ranked in decision.ranking] == ["openvino-fp32@8", "torch-fp32", "onnx-fp32"]
    assert decision.basis == "measured"


def test_unmeasured_candidate_of_an_earlier_wish_wins_and_is_marked_guessed() -> None:
    wish = Wish(backends=("onnx", "openvino"))
    decision = decide(THREE, MACHINE, wish, record(entrant(OPENVINO, timing([1.0] * 3))))
    assert decision.require().id == "onnx-fp32"
    assert decision.basis == "guessed"


def test_fp32_wish_is_not_met_by_a_default_that_runs_at_bf16() -> None:
    facts = record(entrant(OPENVINO, timing([0.1] * 3), variant="default", runs_at="bf16"))
    decision = decide(manifest(OPENVINO), MACHINE, Wish(precisions=("fp32",)), facts)
    assert reasons(decision) == {"openvino-fp32+default@8": "precision bf16 was not asked for"}


def test_fp32_wish_is_met_by_a_default_that_runs_at_fp32() -> None:
    facts = record(entrant(OPENVINO, timing([0.1] * 3), variant="default", runs_at="fp32"))
    decision = decide(manifest(OPENVINO), MACHINE, Wish(precisions=("fp32",)), facts)
    assert decision.require().id == "openvino-fp32+default@8"


def test_differences_above_the_noise_floor_are_a_tie_when_paired_rounds_differ_more() -> None:
    # Medians 6 % apart; round by round the one is 0 to 12 % slower, so the difference is within the noise.
    fast = entrant(ONNX, timing([1.0] * 5), peak_memory_bytes=200 * MIB)
    slow = entrant(OPENVINO, timing([0.95, 1.15, 1.06, 0.90, 1.18]), peak_memory_bytes=100 * MIB)
    decision = decide(THREE, MACHINE, Wish(backends=("onnx", "openvino")), record(fast, slow))
    assert not any(ranked.tied for ranked in decision.ranking), "an earlier wish is no matter of noise"
    decision = decide(THREE, MACHINE, Wish(), record(fast, slow))
    assert decision.require().id == "openvino-fp32@8"
    assert [ranked.tied for ranked in decision.ranking[:2]] == [True, True]


def test_steady_difference_is_no_tie_when_noise_hits_both_in_the_same_rounds() -> None:
    noise = [1.0, 1.5, 0.9, 2.0, 1.1]
    fast = entrant(ONNX, timing(noise), peak_memory_bytes=200 * MIB)
    slow = entrant(OPENVINO, timing([1.05 * ms for ms in noise]), peak_memory_bytes=100 * MIB)
    assert decide(THREE, MACHINE, Wish(), record(fast, slow)).require().id == "onnx-fp32@8"


def test_large_difference_is_no_tie_however_noisy_the_rounds() -> None:
    fast = entrant(ONNX, timing([1.0, 1.0, 1.0, 5.0, 5.0]), peak_memory_bytes=200 * MIB)
    slow = entrant(OPENVINO, timing([1.0, 1.0, 5.0, 5.0, 5.0]), peak_memory_bytes=100 * MIB)
    assert decide(THREE, MACHINE, Wish(), record(fast, slow)).require().id == "onnx-fp32@8"


def test_tie_of_equal_memory_is_settled_by_faster_start() -> None:
    one = entrant(ONNX, timing([1.0] * 3), cold_start_s=0.5)
    other = entrant(OPENVINO, timing([1.01] * 3), cold_start_s=0.4)
    assert decide(THREE, MACHINE, Wish(), record(one, other)).require().id == "openvino-fp32@8"


def test_memory_wish_rejects_what_is_over_it_and_keeps_what_is_at_it() -> None:
    at = entrant(ONNX, timing([2.0] * 3), peak_memory_bytes=100 * MIB)
    over = entrant(OPENVINO, timing([1.0] * 3), peak_memory_bytes=100 * MIB + 1)
    decision = decide(THREE, MACHINE, Wish(max_memory_bytes=100 * MIB), record(at, over))
    assert decision.require().id == "onnx-fp32@8"
    assert reasons(decision)["openvino-fp32@8"].startswith("peak memory")


def test_contract_does_not_reject_the_reference_as_it_stands() -> None:
    facts = record(entrant(TORCH, timing([1.0] * 3), fidelity=race_facts.fidelity(1e-7)))
    wish = Wish(contract=Contract(max_error=0.0))
    assert decide(manifest(TORCH), MACHINE, wish, facts).require().id == "torch-fp32@8"


MEDIANS = st.lists(st.floats(0.5, 2.0), min_size=1, max_size=5)
FIGURES = st.fixed_dictionaries(
    {
        "num_threads": st.sampled_from([1, 8]),
        "medians": st.lists(MEDIANS, min_size=0, max_size=2),
        "failure": st.sampled_from([None, None, None, "crashed with SIGSEGV"]),
        "max_rel": st.sampled_from([0.0, 1e-6, 1e-2, 0.5]),
        "peak_memory_bytes": st.integers(1, 300 * MIB),
        "cold_start_s": st.floats(0.1, 5.0),
    }
)
PACKAGES = [
    TORCH,
    ONNX,
    OPENVINO,
    package("onnx-int8", "int8"),
    package("onnx-fp16", "fp16"),
    package("openvino-fp32-b8", batch=8),
]
WISHES = st.builds(
    Wish,
    backends=st.sampled_from([(), ("onnx",), ("openvino", "onnx"), ("onnx", "torch", "openvino")]),
    precisions=st.sampled_from([(), ("fp32",), ("int8", "fp32"), ("fp16", "int8")]),
    batch_size=st.sampled_from([None, 1, 8, 3]),
    num_threads=st.sampled_from([None, None, 1, 4]),
    objective=st.sampled_from(OBJECTIVES),
    contract=st.sampled_from([Contract(), Contract("exact"), Contract("bounded"), Contract(max_error=0.4)]),
    max_memory_bytes=st.sampled_from([None, 150 * MIB]),
)


@st.composite
def races(draw: st.DrawFn) -> list[Entrant]:
    """Some of the packages, each with one or two thread counts, with any figures."""
    found = {}
    for entry in draw(st.lists(st.sampled_from(PACKAGES), min_size=1, max_size=8)):
        figures = draw(FIGURES)
        timings = [timing(medians, batch) for medians, batch in zip(figures["medians"], (1, 8), strict=False)]
        made = entrant(
            entry,
            *(t for t in timings if entry.batch in ("dynamic", t.batch)),
            num_threads=figures["num_threads"],
            failure=figures["failure"],
            fidelity=race_facts.fidelity(figures["max_rel"]),
            peak_memory_bytes=figures["peak_memory_bytes"],
            cold_start_s=figures["cold_start_s"],
        )
        found[made.candidate.id] = made
    return list(found.values())


@settings(max_examples=150, deadline=None)
@given(races(), WISHES, st.randoms(use_true_random=False))
def test_order_of_packages_and_entrants_changes_neither_choice_nor_ranking(entrants, wish, random) -> None:
    packages = list(PACKAGES)
    first = decide(manifest(*packages), MACHINE, wish, record(*entrants, batches=(1, 8)))
    random.shuffle(packages)
    random.shuffle(entrants)
    shuffled = manifest(*packages, reference=PACKAGES[0].id)
    second = decide(shuffled, MACHINE, wish, record(*entrants, batches=(1, 8)))
    assert (first.chosen, first.ranking, first.basis) == (second.chosen, second.ranking, second.basis)
    assert set(first.rejections) == set(second.rejections)


@settings(max_examples=150, deadline=None)
@given(races(), WISHES)
def test_chosen_one_is_eligible_and_none_is_faster_by_more_than_noise(entrants, wish) -> None:
    decision = decide(manifest(*PACKAGES), MACHINE, wish, record(*entrants, batches=(1, 8)))
    rejected = {rejection.candidate_id for rejection in decision.rejections}
    ranked = [found.candidate.id for found in decision.ranking]
    assert len(set(ranked)) == len(ranked)
    assert not rejected & set(ranked)
    assert {found.candidate.id for found in entrants} <= rejected | set(ranked), "every entrant is accounted for"
    if decision.chosen is None:
        assert not ranked
        return
    assert decision.chosen.id == ranked[0]
    if decision.basis == "guessed" or wish.backends or wish.precisions:
        return
    best = decision.ranking[0].figure or 0.0
    for other in decision.ranking:
        if other.figure is not None and wish.objective == "throughput":
            assert other.figure <= best * (1 + NOISE_CEILING) * 1.0001
        elif other.figure is not None:
            assert other.figure * (1 + NOISE_CEILING) * 1.0001 >= best
