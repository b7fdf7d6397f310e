import math

import ml_dtypes
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fakes import race_facts
from runoff.errors import RaceError
from runoff.models.manifest import Fidelity
from runoff.race.fidelity import LEVELS, Contract, compare, violation
from runoff.types import Precision

FP32, BF16, INT8 = Precision.FP32, Precision.BF16, Precision.INT8


def figures(reference, outputs, *, classifier: bool = False) -> Fidelity:
    """Compare one output called y."""
    pair = ({"y": np.asarray(reference)}, {"y": np.asarray(outputs)})
    return compare(*pair, against="torch-fp32", inputs="data", classifier=classifier)


def test_figures_are_those_worked_out_by_hand() -> None:
    found = figures([[3.0, 0.0], [0.0, 4.0]], [[3.0, 0.5], [0.0, 4.0]], classifier=True)
    assert (found.against, found.inputs, found.samples) == ("torch-fp32", "data", 2)
    assert found.max_abs == 0.5
    assert found.max_rel == 0.125, "over the largest magnitude of the reference, which is 4"
    assert found.cosine == pytest.approx(25 / (5 * math.sqrt(25.25)))
    # Centred by the column means (1.5, 2): [1.5, -2], [-1.5, 2] against [1.5, -1.5], [-1.5, 2].
    assert found.centred_cosine == pytest.approx(11.5 / (math.sqrt(12.5) * math.sqrt(10.75)))
    assert found.top1 == 1.0


def test_equal_outputs_have_no_error() -> None:
    found = figures([[1.0, -2.0], [0.5, 3.0]], [[1.0, -2.0], [0.5, 3.0]])
    assert (found.max_abs, found.max_rel) == (0.0, 0.0)
    assert (found.cosine, found.centred_cosine) == pytest.approx((1.0, 1.0))
    assert found.top1 is None


def test_centred_cosine_tells_a_lost_signal_that_plain_cosine_flatters() -> None:
    generator = np.random.default_rng(0)
    shared, signal = 10.0, generator.standard_normal((64, 8))
    noise = generator.standard_normal((64, 8))
    found = figures(shared + signal, shared + 0.7 * signal + 0.7 * noise)
    assert found.cosine > 0.99
    assert found.centred_cosine < 0.8
    assert "centred cosine" in (violation(msgspec.structs.replace(found, max_rel=0.0), BF16, Contract(), {}) or "")


def test_constant_output_is_right_when_it_only_differs_by_rounding() -> None:
    # The logit scale of a contrastive model, say: no sample moves it, so centring leaves rounding alone.
    reference = np.full((16, 1), 0.1, np.float32)
    found = figures(reference, np.nextafter(reference, np.float32(1)))
    assert found.centred_cosine == pytest.approx(1.0)
    assert violation(found, FP32, Contract(), {}) is None


def test_varying_reference_against_a_constant_has_no_centred_cosine() -> None:
    reference = np.arange(8.0).reshape(4, 2)
    found = figures(reference, np.broadcast_to(reference.mean(axis=0), (4, 2)))
    assert found.centred_cosine == 0.0


def test_single_sample_is_not_centred() -> None:
    found = figures([[1.0, 2.0]], [[1.0, 2.5]])
    assert found.centred_cosine == found.cosine < 1.0


def test_scalar_output_is_compared() -> None:
    found = figures(2.0, 2.5)
    assert (found.max_abs, found.max_rel, found.samples) == (0.5, 0.25, 1)


def test_zero_reference_is_compared_absolutely() -> None:
    found = figures(np.zeros((2, 3)), np.full((2, 3), 1e-3))
    assert found.max_rel == 1e-3
    assert found.cosine == 0.0
    assert figures(np.zeros((2, 3)), np.zeros((2, 3))).cosine == 1.0


def test_worst_output_counts_when_there_are_several() -> None:
    reference = {"a": np.array([[1.0], [2.0]]), "b": np.array([[10.0], [20.0]])}
    outputs = {"b": np.array([[10.0], [20.2]]), "a": np.array([[1.0], [2.1]])}
    found = compare(reference, outputs, against="r", inputs="data", classifier=False)
    assert found.max_abs == pytest.approx(0.2)
    assert found.max_rel == pytest.approx(0.05)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int64, np.uint8, np.bool_])
def test_outputs_of_any_dtype_are_compared(dtype) -> None:
    reference = np.array([[0, 1], [1, 0]]).astype(dtype)
    assert figures(reference, reference).max_abs == 0.0
    assert figures(reference, reference[::-1]).max_abs == 1.0


def test_unsigned_integers_do_not_wrap_around() -> None:
    assert figures(np.array([[0]], np.uint8), np.array([[255]], np.uint8)).max_abs == 255.0


def test_strings_are_equal_or_not() -> None:
    reference = np.array([["cat", "dog"], ["cat", "cow"]])
    assert figures(reference, reference.astype(object)).max_abs == 0.0
    found = figures(reference, np.array([["cat", "dog"], ["cat", "cat"]]))
    assert found.max_abs == 1.0
    assert violation(found, FP32, Contract(), {}) is not None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_a_failure_when_the_reference_is_finite(value) -> None:
    with pytest.raises(RaceError, match="NaN or infinite"):
        figures([[1.0, 2.0]], [[1.0, value]])
    with pytest.raises(RaceError, match="NaN or infinite"):
        figures([[1.0, value]], [[1.0, 2.0]])


def test_not_finite_at_the_same_places_is_right() -> None:
    values = [[1.0, np.nan], [np.inf, -np.inf]]
    assert figures(values, values).max_abs == 0.0


def test_infinity_of_the_other_sign_is_a_failure() -> None:
    with pytest.raises(RaceError):
        figures([[np.inf]], [[-np.inf]])


def test_missing_output_is_a_failure() -> None:
    with pytest.raises(RaceError, match=r"\['y'\].*\['z'\]"):
        compare({"z": np.zeros(1)}, {"y": np.zeros(1)}, against="r", inputs="data", classifier=False)


def test_other_shape_is_a_failure_that_names_both() -> None:
    with pytest.raises(RaceError, match=r"\[2, 3\].*\[3, 2\]"):
        figures(np.zeros((3, 2)), np.zeros((2, 3)))


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float64, (3, 2), elements=st.floats(allow_nan=False, allow_infinity=False)),
    hnp.arrays(np.float64, (3, 2), elements=st.floats(allow_nan=False, allow_infinity=False)),
)
def test_figures_can_be_written_as_json_whatever_is_compared(reference, outputs) -> None:
    found = figures(reference, outputs)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Fidelity) == found
    assert -1.0 <= found.cosine <= 1.0
    assert -1.0 <= found.centred_cosine <= 1.0


@pytest.mark.parametrize(
    ("precision", "level"), [(FP32, "exact"), (BF16, "close"), (Precision.FP16, "close"), (INT8, "bounded")]
)
def test_each_precision_has_its_level_and_a_limit_is_admitted_up_to_itself(precision, level) -> None:
    limits = LEVELS[level]
    assert violation(race_facts.fidelity(limits.max_rel, limits.centred_cosine), precision, Contract(), {}) is None
    over = violation(race_facts.fidelity(limits.max_rel * 1.01), precision, Contract(), {})
    assert over is not None
    assert f"({level})" in over
    assert violation(race_facts.fidelity(0.0, limits.centred_cosine - 1e-6), precision, Contract(), {}) is not None


def test_level_of_the_contract_replaces_that_of_the_precision() -> None:
    rough = race_facts.fidelity(1e-2)
    assert violation(rough, BF16, Contract(), {}) is None
    assert violation(rough, BF16, Contract("exact"), {}) is not None
    assert violation(rough, FP32, Contract("close"), {}) is None


def test_top1_agreement_is_held_to_the_level() -> None:
    assert violation(race_facts.fidelity(0.0, top1=0.99), FP32, Contract(), {}) is None
    assert "top-1" in (violation(race_facts.fidelity(0.0, top1=0.98), FP32, Contract(), {}) or "")


def test_max_error_replaces_the_limits_of_the_level() -> None:
    rough = race_facts.fidelity(0.3, centred_cosine=0.5)
    assert violation(rough, INT8, Contract(max_error=0.3), {}) is None
    assert "0.3 is over 0.29" in (violation(rough, INT8, Contract(max_error=0.29), {}) or "")


def test_level_and_max_error_together_keep_the_rest_of_the_level() -> None:
    rough = race_facts.fidelity(0.3, centred_cosine=0.5)
    assert "centred cosine" in (violation(rough, INT8, Contract("bounded", 0.5), {}) or "")


def test_metric_decides_below_fp32() -> None:
    coarse = race_facts.fidelity(0.9, centred_cosine=0.5, top1=0.6, accuracy=0.979)
    assert violation(coarse, INT8, Contract(), {"accuracy": 0.98}) is None
    worse = race_facts.fidelity(0.0, accuracy=0.97)
    assert "accuracy drops by 1.00 pp" in (violation(worse, INT8, Contract(), {"accuracy": 0.98}) or "")


def test_metric_drop_is_admitted_up_to_the_wish() -> None:
    coarse = race_facts.fidelity(0.9, accuracy=0.93)
    assert violation(coarse, INT8, Contract(max_metric_drop=0.05), {"accuracy": 0.98}) is None
    assert violation(coarse, INT8, Contract(max_metric_drop=0.049), {"accuracy": 0.98}) is not None


def test_metric_never_excuses_a_wrong_fp32() -> None:
    wrong = race_facts.fidelity(0.2, accuracy=0.99)
    assert violation(wrong, FP32, Contract(max_metric_drop=0.5), {"accuracy": 0.98}) is not None


def test_metric_does_not_replace_a_limit_that_was_asked_for() -> None:
    coarse = race_facts.fidelity(0.9, accuracy=0.98)
    assert violation(coarse, INT8, Contract(max_error=0.5), {"accuracy": 0.98}) is not None
    assert violation(coarse, INT8, Contract("close"), {"accuracy": 0.98}) is not None


def test_metric_that_rises_is_no_drop() -> None:
    assert violation(race_facts.fidelity(0.0, accuracy=1.0), FP32, Contract(), {"accuracy": 0.9}) is None


def test_nan_figures_are_never_within_a_contract() -> None:
    assert violation(race_facts.fidelity(math.nan), INT8, Contract("bounded"), {}) is not None
    assert violation(race_facts.fidelity(0.0, math.nan), INT8, Contract("bounded"), {}) is not None
