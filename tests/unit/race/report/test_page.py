"""The report: its figures, its reasons, and that it is one well-formed file that nothing can inject into."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from fakes.race_results import CRASH, PACKAGES, UNMADE, entrant, fidelity, full_race, race
from runoff.errors import ModelError, RunoffError
from runoff.export.quantize import LOG_NAME
from runoff.export.sensitivity import BROKEN, Ranked, SearchLog, Trial, Verdict
from runoff.models.folder import ModelFolder
from runoff.models.manifest import FileEntry, PackageEntry
from runoff.race.candidates import with_sessions
from runoff.race.decide import Wish
from runoff.race.fidelity import Contract
from runoff.race.record import BatchTiming, Turn
from runoff.race.report.data import result_data
from runoff.race.report.headline import headline
from runoff.race.report.page import render_report, write_report
from runoff.race.report.standings import standings
from runoff.race.report.terminal import print_result
from runoff.race.run import RaceResult
from runoff.types import Precision

_VOID = {"meta", "br", "hr", "link", "img", "input"}
_TORCH, _ONNX, _ONNX_BF16, _OPENVINO = PACKAGES


class _Page(HTMLParser):
    """The tags, attributes and text of a page; fails where an end tag does not close what is open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.cells[-1][-1] += data

    def rows(self, name: str) -> list[list[str]]:
        """The table rows of a candidate, without the number in front of it."""
        return [row[1:] for row in self.cells if row and re.fullmatch(rf"\d+{re.escape(name)}", row[0])]


def _charts(html: str) -> list[ET.Element]:
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def _races() -> dict[str, RaceResult]:
    failed = {"failure": CRASH}
    return {
        "full": full_race(),
        "all rejected": race([entrant(_TORCH, max_rel=None, changes=failed)]),
        "nothing raced": race([], changes={"unmade": {"onnx-fp32": UNMADE}}),
        "one candidate": race([entrant(_TORCH, p50_ms=(1.0,))]),
        "one round": race(
            [entrant(_TORCH, p50_ms=(1.0,), changes={"retired": "too slow"}), entrant(_ONNX, p50_ms=(9,))]
        ),
        "far apart": race([entrant(_TORCH, p50_ms=(1e-3,)), entrant(_ONNX, p50_ms=(9e3,), max_rel=1e-9)]),
    }


@pytest.mark.parametrize("name", _races())
def test_page_and_charts_are_well_formed(name: str) -> None:
    html = render_report(_races()[name])
    page = _Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert {"html", "head", "body", "h1"} <= {tag for tag, _ in page.tags}
    assert all(svg.tag == "svg" for svg in _charts(html))
    assert html.count("<svg") == len(_charts(html))


@pytest.mark.parametrize("name", _races())
def test_page_needs_nothing_from_elsewhere(name: str) -> None:
    html = render_report(_races()[name])
    page = _Page(html)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & {tag for tag, _ in page.tags}
    assert not {"src", "href", "xlink:href", "style"} & {key for _, attributes in page.tags for key in attributes}
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert not re.search(r"https?:|@import|url\(|@font-face", html)


def test_figures_in_the_tables_are_those_of_the_record() -> None:
    result = full_race()
    found = result.record.entrant("onnx-fp32@4")
    assert found is not None
    first, second = found.timings
    speed, about = _Page(render_report(result)).rows("onnx-fp32@4")
    assert speed[:3] == ["fp32", "4", "0.500"]
    assert speed[3] == f"{first.spread * 100:.1f}"
    assert speed[4:7] == [f"{first.percentile_ms(95):.3f}", f"{first.percentile_ms(99):.3f}", "2,000"]
    assert speed[7:11] == ["1.88", "1.1", f"{second.percentile_ms(95):.2f}", f"{second.percentile_ms(99):.2f}"]
    assert speed[11:] == ["4,267", "7", "5,600"]
    assert about == ["fp32", "0.40", "0.20", "120", "0.50", "4.0e-7", "4.0e-7", "1.000000", "100.00"]


def test_metric_is_shown_with_its_difference_to_the_reference() -> None:
    reference = entrant(_TORCH, p50_ms=(1.0,), changes={"fidelity": fidelity(0.0, 0.984)})
    other = entrant(_ONNX, p50_ms=(0.5,), changes={"fidelity": fidelity(1e-6, 0.9815)})
    page = _Page(render_report(race([reference, other], changes={"reference_metric": {"accuracy": 0.984}})))
    assert page.rows("onnx-fp32@4")[1][-2:] == ["98.15", "−0.25"]  # noqa: RUF001 - the sign that is printed
    assert page.rows("torch-fp32@4")[1][-2:] == ["98.40", "0.00"]


def test_every_rejection_appears_with_its_reason_and_hint() -> None:
    result = full_race()
    rejections = result.decision.rejections
    assert {rejection.candidate_id for rejection in rejections} == {"onnx-fp32@1", "onnx-bf16@4", "hf-fp32"}
    hinted = msgspec.structs.replace(rejections[0], hint="use <another> model")
    decision = msgspec.structs.replace(result.decision, rejections=(hinted, *rejections[1:]))
    page = _Page(render_report(RaceResult(result.folder, result.record, decision, result.environment, ())))
    for rejection in rejections:
        assert any(rejection.reason in row[1] for row in page.rows(rejection.candidate_id) if len(row) == 2)
    assert "hint: use <another> model" in page.text


def test_headline_names_the_winner_its_figure_the_ratio_and_the_tie() -> None:
    text = _Page(render_report(full_race())).text
    assert "onnx-fp32@4 wins with 0.500 ms at batch 1 (median, ±1.1 %), 2.50 times as fast as torch-fp32@4" in text
    assert "The difference to openvino-fp32@4 is within the noise" in text


def test_headline_claims_no_gain_when_the_reference_is_as_fast() -> None:
    lighter = {"peak_memory_bytes": 50 * 2**20}
    result = race([entrant(_TORCH, p50_ms=(1.0,)), entrant(_ONNX, p50_ms=(0.99,), changes=lighter)])
    assert "within the noise of torch-fp32@4, the reference's plain candidate (1.01 times" in str(headline(result))


def test_headline_speaks_of_no_noise_when_sizes_are_equal() -> None:
    light = {"peak_memory_bytes": 50 * 2**20}
    entrants = [entrant(_TORCH, p50_ms=(1.0,)), entrant(_ONNX, p50_ms=(2.0,), changes=light)]
    text = str(headline(race(entrants, wish=Wish(objective="size"))))
    assert text.startswith("onnx-fp32@4 wins with 0.500 MiB on disk, as small as torch-fp32@4")
    assert "noise" not in text


def test_headline_says_so_when_the_reference_wins() -> None:
    result = race([entrant(_TORCH, p50_ms=(1.0,)), entrant(_ONNX, p50_ms=(2.0,))])
    assert str(headline(result)).endswith("it is the reference's own plain candidate.")


def test_headline_says_so_when_the_reference_has_no_figure() -> None:
    result = race([entrant(_TORCH, max_rel=None, changes={"failure": CRASH}), entrant(_ONNX, p50_ms=(2.0,))])
    assert "has no figure to compare with" in str(headline(result))


def test_headline_says_guessed_when_nothing_measured_is_eligible() -> None:
    result = race([entrant(_ONNX, max_rel=None, changes={"failure": CRASH})])
    assert result.decision.basis == "guessed"
    assert str(headline(result)).startswith("torch-fp32 is guessed by the documented order")


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (
            "throughput",
            "wins with 4,267 items/s at batch 8 (median, ±1.1 %), 2.40 times the throughput of torch-fp32@4",
        ),
        ("memory", "wins with 120 MiB of memory at the peak, 0.600 times the memory of torch-fp32@4"),
        ("cold-start", "wins with 0.400 s from process start to first output, 5.00 times as fast to start as"),
    ],
)
def test_headline_speaks_of_the_objective(objective: str, sentence: str) -> None:
    heavy = {"peak_memory_bytes": 200 * 2**20, "cold_start_s": 2.0}
    wish = msgspec.convert({"objective": objective}, Wish)
    entrants = [entrant(_TORCH, p50_ms=(1.25, 4.5), changes=heavy), entrant(_ONNX, p50_ms=(0.5, 1.875))]
    assert sentence in str(headline(race(entrants, batches=(1, 8), wish=wish)))


def test_page_says_that_nothing_is_eligible_when_all_are_rejected() -> None:
    page = _Page(render_report(_races()["nothing raced"]))
    assert UNMADE in page.text
    rejected = race([entrant(_TORCH, max_rel=None, changes={"failure": CRASH})])
    page = _Page(render_report(rejected))
    assert "No candidate is eligible" in page.text
    assert CRASH in page.text
    assert "there is nothing to draw" in page.text


def test_markup_in_names_and_reasons_is_text() -> None:
    attack = '</title></style><script>alert("x")</script><svg onload=alert(1)>\x1b[31m'
    odd = msgspec.structs.replace(_ONNX, id=f"onnx-{attack}")
    candidate = msgspec.structs.replace(entrant(_ONNX).candidate, id=attack, package_id=odd.id)
    result = race(
        [
            entrant(_TORCH, p50_ms=(1.0,)),
            entrant(_ONNX, p50_ms=(0.5,)),
            entrant(_ONNX, threads=1, changes={"failure": attack}),
        ],
        name=attack,
        changes={"notes": (attack,), "unmade": {attack: attack}, "raced_at": attack},
    )
    chosen = msgspec.structs.replace(result.decision.ranking[0], candidate=candidate)
    decision = msgspec.structs.replace(result.decision, ranking=(chosen,), chosen=candidate)
    record = result.record.with_entrant(entrant(_ONNX, p50_ms=(0.5,), changes={"candidate": candidate}))
    html = render_report(RaceResult(result.folder, record, decision, result.environment, (attack,)))
    page = _Page(html)
    assert not {"script", "h1 onload"} & {tag for tag, _ in page.tags}
    assert not any("onload" in attributes for _, attributes in page.tags)
    assert "<script" not in html
    assert "\x1b" not in html
    assert page.text.count('<script>alert("x")</script>') > 8


def test_numbers_stand_in_right_aligned_columns_with_units() -> None:
    html = render_report(full_race())
    assert "tabular-nums" in html
    assert re.search(r"th, td \{[^}]*text-align: right", html)
    assert '<th class="figure edge" scope="col">p50<small>ms</small></th>' in html


def test_commands_repeat_the_race_as_far_as_the_record_tells() -> None:
    wish = Wish(objective="throughput", contract=Contract("close", 0.01, 0.005), max_memory_bytes=2**30)
    text = _Page(render_report(race([entrant(_TORCH, p50_ms=(1.0, 2.0))], batches=(1, 8), wish=wish))).text
    options = "--objective throughput --batch 1,8 --threads 4 --contract close --max-error 0.01 --max-metric-drop 0.005"
    assert f"runoff race digits {options} --max-memory 1024MiB --force --report report.html" in text
    assert "runoff explain digits --objective throughput" in text


def test_machine_and_settings_are_named() -> None:
    text = _Page(render_report(full_race())).text
    for fact in (full_race().record.fingerprint, "AMD EPYC 9B14", "2.9.1", "1.23.0", "normal-v1 seed 0", "1, 8"):
        assert fact in text


def test_report_is_written_where_no_folder_was(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "digits.html"
    write_report(full_race(), path)
    assert path.read_text(encoding="utf-8") == render_report(full_race())
    assert list(path.parent.iterdir()) == [path]


def test_unwritable_report_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        write_report(full_race(), tmp_path / "file" / "report.html")


def test_missing_jinja2_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(RunoffError) as caught:
        render_report(full_race())
    assert caught.value.hint == "pip install 'runoff[report]'"


def test_data_is_plain_json_with_every_candidate_and_reason() -> None:
    result = full_race()
    data = json.loads(json.dumps(result_data(result)))
    assert data["chosen"] == "onnx-fp32@4"
    assert [candidate["candidate_id"] for candidate in data["candidates"]] == [
        standing.candidate_id for standing in standings(result)
    ]
    best = data["candidates"][0]["batches"][0]
    assert (best["batch"], best["p50_ms"], best["rounds"], best["runs"]) == (1, 0.5, 7, 2800)
    assert best["min_ms"] <= best["p5_ms"] <= best["p25_ms"] <= best["p50_ms"] <= best["p75_ms"] <= best["p95_ms"]
    assert {rejection["reason"] for rejection in data["decision"]["rejections"]} >= {CRASH, UNMADE}
    assert data["environment"]["fingerprint"] == result.environment.fingerprint
    assert "the machine was busy" in data["notes"]


def test_figures_of_a_package_that_was_changed_since_are_not_lost() -> None:
    stale = entrant(_ONNX, p50_ms=(0.5,), changes={"package_sha256": "ff" * 32})
    result = race([entrant(_TORCH, p50_ms=(1.0,)), stale])
    found = next(standing for standing in standings(result) if standing.candidate_id == "onnx-fp32@4")
    assert (found.verdict, found.reason) == ("unmeasured", "its package was changed or removed after it was measured")
    assert found.reason in _Page(render_report(result)).text


def test_candidate_that_was_not_timed_at_the_batch_of_the_decision_is_listed_with_its_figures() -> None:
    both = entrant(_ONNX, p50_ms=(1.0, 2.0))
    result = race(
        [entrant(_TORCH, p50_ms=(1.0, 2.0)), msgspec.structs.replace(both, timings=both.timings[1:])], batches=(1, 8)
    )
    speed = _Page(render_report(result)).rows("onnx-fp32@4")[0]
    assert speed[2:7] == ["–"] * 5  # noqa: RUF001 - what stands for a missing figure
    assert speed[7] == "2.00"


def test_page_terminal_and_data_say_what_to_serve_with_when_throughput_was_raced(
    capsys: pytest.CaptureFixture[str],
) -> None:
    single = entrant(_ONNX, p50_ms=(0.5, 2.0))
    turns = (Turn(0, 40, 2.25, (2.0, 2.25, 3.0), 1500.0),)
    several = msgspec.structs.replace(
        single, candidate=with_sessions(single.candidate, 4, 1), timings=(BatchTiming(8, turns),)
    )
    found = race([single, several], batches=(1, 8), wish=Wish(objective="throughput"))
    sentence = "serve with: 4 sessions x 1 thread, batch 8: 12,000 items/s"
    text = " ".join(re.sub(r"<[^>]+>", "", render_report(found)).split())
    assert sentence in text
    assert "threadssessions" in text.replace(" ", ""), "a column of the table"
    print_result(found, Console(width=120))
    assert sentence in capsys.readouterr().out
    assert result_data(found)["serving"]["sessions"] == 4
    assert "at batch 8" in str(headline(found))
    latency = race([single, several], batches=(1, 8))
    assert "onnx-fp32@1x4" not in render_report(latency), "it does not compete for latency"
    assert result_data(latency)["serving"] is None


def _searched(log: SearchLog, root: Path) -> RaceResult:
    """A race of a model with one quantised package that a search was needed for."""
    result = race([entrant(_TORCH, p50_ms=(1.0,))])
    content = msgspec.json.encode(log)
    place = root / "packages" / "onnx-int8-static"
    place.mkdir(parents=True)
    (place / LOG_NAME).write_bytes(content)
    path = f"packages/onnx-int8-static/{LOG_NAME}"
    file = FileEntry(path, hashlib.sha256(content).hexdigest(), len(content))
    entry = PackageEntry("onnx-int8-static", "onnx", "onnx", Precision.INT8, (file,))
    manifest = msgspec.structs.replace(result.folder.manifest, packages=(*result.folder.manifest.packages, entry))
    folder = ModelFolder(root, manifest)
    return RaceResult(folder, result.record, result.decision, result.environment, ())


_LOG = SearchLog(
    num_layers=3,
    before=Verdict(BROKEN, "output 'y' is NaN"),
    after=Verdict(0.01, None, {"max_rel": 0.0123, "accuracy": 0.98}),
    kept=("<first>",),
    ranking=(Ranked(("<first>",), BROKEN), Ranked(("b", "c"), 0.00125)),
    trials=(Trial(0, "accuracy drops", {"accuracy": 0.5}), Trial(1, None, {"max_rel": 0.0123, "accuracy": 0.98})),
    seconds=1.5,
)


def test_search_of_layers_is_told_with_its_ranking_its_tries_and_the_figures_before_and_after(tmp_path: Path) -> None:
    page = _Page(render_report(_searched(_LOG, tmp_path)))
    assert "With all of 3 layers quantised: NaN or infinite; output 'y' is NaN." in page.text
    assert "With 1 layer kept in fp32, <first>: max rel 0.0123, accuracy 98.00 %; within the contract." in page.text
    assert ["<first>", "NaN or infinite"] in page.cells
    assert [row[1] for row in page.cells if row[0] == "b, c"] == ["1.3e-3"]
    assert ["0", "accuracy 50.00 %", "accuracy drops"] in page.cells
    assert ["1", "max rel 0.0123, accuracy 98.00 %", "within"] in page.cells


def test_damaged_log_of_a_search_is_told_and_does_not_spoil_the_report(tmp_path: Path) -> None:
    result = _searched(_LOG, tmp_path)
    (tmp_path / "packages" / "onnx-int8-static" / LOG_NAME).write_text("{}")
    assert "its log cannot be read" in _Page(render_report(result)).text


def test_report_has_no_section_on_kept_layers_when_none_was_searched_for() -> None:
    assert "Layers kept" not in _Page(render_report(full_race())).text
