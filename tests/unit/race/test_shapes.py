import pytest

from fakes.race_facts import candidate, entrant, package, timing
from runoff.race.shapes import best_rate, leading_ways, session_counts, shapes_of, unshared

TORCH, ONNX, OPENVINO = package("torch-fp32"), package("onnx-fp32"), package("openvino-fp32")
EXECUTORCH = package("executorch-fp32")


def ids(found) -> list[str]:
    return [made.id for made in found]


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, ()), (2, (2,)), (3, (2, 3)), (4, (2, 4)), (6, (2, 4, 6)), (16, (2, 4, 8, 16))]
)
def test_numbers_of_sessions_double_up_to_the_cores(cores, counts) -> None:
    assert session_counts(cores) == counts


def test_shapes_share_the_cores_out_or_take_a_thread_each() -> None:
    made = shapes_of(candidate(ONNX, num_threads=8), 8)
    assert ids(made) == [
        "onnx-fp32@4x2",
        "onnx-fp32@1x2",
        "onnx-fp32@2x4",
        "onnx-fp32@1x4",
        "onnx-fp32@1x8",
    ]
    assert [(shape.sessions, shape.num_threads) for shape in made][:2] == [(2, 4), (2, 1)]
    assert {shape.way for shape in made} == {"onnx-fp32"}


def test_shapes_keep_to_the_numbers_that_were_asked_for() -> None:
    one = candidate(ONNX, num_threads=8)
    assert ids(shapes_of(one, 8, threads=(1,))) == ["onnx-fp32@1x2", "onnx-fp32@1x4", "onnx-fp32@1x8"]
    assert ids(shapes_of(one, 8, threads=(3,))) == ["onnx-fp32@3x2"], "three threads for each of three are too many"
    assert ids(shapes_of(one, 8, sessions=(1, 3))) == ["onnx-fp32@2x3", "onnx-fp32@1x3"]
    assert ids(shapes_of(one, 1, sessions=(2,))) == ["onnx-fp32@1x2"], "an explicit number is obeyed on one core"
    assert shapes_of(one, 1) == []


def test_way_that_could_not_win_even_without_loss_gets_no_shape() -> None:
    fast = entrant(ONNX, timing([1.0]))
    far = entrant(TORCH, timing([9.0]))
    behind = entrant(OPENVINO, timing([7.0]), num_threads=1)
    assert leading_ways([fast, far, behind], 8) == [fast, behind], "eight sessions of the last could reach 8/7"
    assert leading_ways([fast, far, behind], 4) == [fast]


def test_fastest_thread_count_stands_for_its_way() -> None:
    slow, fast = entrant(ONNX, timing([2.0]), num_threads=1), entrant(ONNX, timing([1.0]))
    assert leading_ways([slow, fast], 8) == [fast]


def test_each_runtime_and_precision_sends_its_best_two_and_all_that_are_close() -> None:
    near = [
        entrant(package(f"onnx-{name}"), timing([median]))
        for name, median in zip("abc", (1.0, 1.02, 1.05), strict=True)
    ]
    distant = [
        entrant(package(f"openvino-{name}"), timing([median]), num_threads=1)
        for name, median in zip("abc", (1.5, 1.6, 1.7), strict=True)
    ]
    bf16 = entrant(package("onnx-bf16", "bf16"), timing([9.0]))
    assert leading_ways([*near, *distant, bf16], 8) == [*near, *distant[:2], bf16]


def test_best_batch_counts() -> None:
    assert best_rate(entrant(ONNX, timing([1.0]), timing([2.0], 8))) == 4000
    assert best_rate(entrant(ONNX)) == 0


def test_runtime_whose_sessions_run_one_after_the_other_is_left_out_in_words() -> None:
    alone = entrant(EXECUTORCH, timing([1.0]))
    assert leading_ways([alone], 8) == []
    (sentence,) = unshared([alone.candidate, candidate(ONNX)])
    assert sentence.startswith("ExecuTorch is not timed with several sessions: its sessions share the thread pool")
