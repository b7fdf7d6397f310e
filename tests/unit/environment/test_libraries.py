"""Libraries by the metadata of distributions: real folders on the path, none of them imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runoff.environment.extras import Requirements
from runoff.environment.libraries import (
    LIBRARIES,
    TOOLS,
    Library,
    LibraryFacts,
    Plugin,
    cuda_toolkit_version,
    find_libraries,
    installed_plugins,
    installed_version,
    is_importable,
    rivals,
)

_NOTHING = Requirements((), (), {}.get)
_ROW = Library("example", "Example", ("example-lib", "example-lib-gpu"), "example_lib", "some", cpu_extra="some-cpu")


def _install(folder: Path, name: str, version: str, *, module: str | None = None, entry_points: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if entry_points:
        (info / "entry_points.txt").write_text(entry_points)
    if module:
        (folder / f"{module}.py").write_text("raise RuntimeError('imported')\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, like site-packages."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def _find(
    row: Library = _ROW, requirements: Requirements = _NOTHING, devices: tuple[str, ...] = ("cpu",)
) -> LibraryFacts:
    return find_libraries([row], requirements, installed_version, devices=devices)[row.id]


def test_library_has_its_version_when_it_is_installed(site: Path) -> None:
    _install(site, "example-lib", "1.2.3", module="example_lib")
    facts = _find()
    assert facts == LibraryFacts("Example", "1.2.3", distribution="example-lib")
    assert facts.usable


def test_library_is_found_when_another_distribution_brings_it(site: Path) -> None:
    _install(site, "example-lib-gpu", "1.2.3", module="example_lib")
    assert (_find().distribution, _find().version) == ("example-lib-gpu", "1.2.3")


@pytest.mark.parametrize(
    ("devices", "extra"), [(("cpu",), "some-cpu"), (("cpu", "cuda:0"), "some"), (("cpu", "mps"), "some")]
)
def test_command_that_adds_it_fits_the_machine_when_it_is_missing(devices: tuple[str, ...], extra: str) -> None:
    assert _find(devices=devices) == LibraryFacts("Example", install=f"pip install 'runoff[{extra}]'")


def test_library_is_broken_when_only_its_metadata_is_left(site: Path) -> None:
    _install(site, "example-lib", "1.2.3")
    (site / "example_lib").mkdir()
    facts = _find()
    assert facts.problem == "broken: example-lib 1.2.3 is recorded as installed, but its module is not there"
    assert facts.install == "pip install --force-reinstall --no-deps example-lib==1.2.3"
    assert not facts.usable


def test_library_is_missing_when_its_metadata_is_damaged(site: Path) -> None:
    _install(site, "example-lib", "1.2.3", module="example_lib")
    (site / "example_lib-1.2.3.dist-info/METADATA").write_text("Name: example-lib\n")
    assert _find().version is None


def test_library_has_a_problem_when_it_is_too_old(site: Path) -> None:
    _install(site, "example-lib", "1.2.3", module="example_lib")
    facts = _find(requirements=Requirements(["example-lib>=2; extra == 'some'"], ["some"], installed_version))
    assert facts.problem == "1.2.3 is installed, runoff needs >=2"
    assert facts.install == "pip install 'runoff[some-cpu]'"


def test_tensorrt_says_what_it_needs_when_there_is_no_gpu() -> None:
    row = next(row for row in LIBRARIES if row.id == "tensorrt")
    nothing_installed = {}.get
    without = find_libraries([row], _NOTHING, nothing_installed, devices=("cpu",))["tensorrt"]
    assert without.problem == "needs an NVIDIA GPU, and none was found"
    assert without.install == "pip install 'runoff[trt10]'"
    assert find_libraries([row], _NOTHING, nothing_installed, devices=("cpu", "cuda:0"))["tensorrt"].problem is None


def test_rivals_are_named_when_two_distributions_share_a_module(site: Path) -> None:
    _install(site, "example-lib", "1.2.3", module="example_lib")
    assert rivals([_ROW], installed_version) == []
    _install(site, "example-lib-gpu", "1.2.4")
    expected = "example-lib and example-lib-gpu share the module example_lib: keep one of them"
    assert rivals([_ROW], installed_version) == [expected]


def test_module_without_code_is_not_importable(site: Path) -> None:
    (site / "only_a_folder").mkdir()
    assert not is_importable("only_a_folder")
    assert not is_importable("there_is_no_such_module")
    assert is_importable("json")


def test_package_without_an_init_file_is_importable_when_there_is_code_below(site: Path) -> None:
    (site / "spread_out" / "part").mkdir(parents=True)
    assert not is_importable("spread_out")
    (site / "spread_out" / "part" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    assert is_importable("spread_out")


def test_plugins_are_listed_and_not_loaded(site: Path) -> None:
    points = "[runoff.backends]\nloud = loud_backend:row\n[other.group]\nquiet = loud_backend:row\n"
    _install(site, "runoff-loud", "0.3", module="loud_backend", entry_points=points)
    assert Plugin("loud", "runoff-loud", "0.3") in installed_plugins()
    assert "loud_backend" not in sys.modules
    assert not any(plugin.name == "quiet" for plugin in installed_plugins())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('{"cuda": {"name": "CUDA SDK", "version": "12.4.1"}}', "12.4.1"),
        ('{"cuda": "12.4.1"}', None),
        ('{"other": {}}', None),
        ("truncated {", None),
        (None, None),
    ],
)
def test_cuda_toolkit_is_read_from_its_folder(tmp_path: Path, text: str | None, version: str | None) -> None:
    if text is not None:
        (tmp_path / "usr/local/cuda").mkdir(parents=True)
        (tmp_path / "usr/local/cuda/version.json").write_text(text)
    assert cuda_toolkit_version(tmp_path, {}.get) == version


def test_cuda_toolkit_of_pip_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "usr/local/cuda").mkdir(parents=True)
    (tmp_path / "usr/local/cuda/version.json").write_text('{"cuda": {"version": "11.8.0"}}')
    assert cuda_toolkit_version(tmp_path, {"nvidia-cuda-runtime-cu12": "12.8.90"}.get) == "12.8.90"


def test_rows_have_unique_ids() -> None:
    ids = [row.id for row in (*LIBRARIES, *TOOLS)]
    assert len(ids) == len(set(ids))


def test_no_library_is_imported_when_the_machine_is_described() -> None:
    names = sorted({row.import_name for row in (*LIBRARIES, *TOOLS)} | {"numpy"})
    code = (
        "import sys; from runoff.environment.describe import describe_environment; str(describe_environment());"
        f"print([name for name in {names} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
