import msgspec

from fakes.model_files import make_folder
from runoff.models.dimensions import batch_dimension, named_dimensions, signature_of, with_batch, with_sizes
from runoff.models.folder import read_folder, update_package
from runoff.models.manifest import PackageEntry
from runoff.types import DType, Precision, Signature, TensorSpec

TEXT = Signature(
    (TensorSpec("ids", DType.INT64, ("batch", "sequence")), TensorSpec("mask", DType.INT64, ("batch", "sequence"))),
    (TensorSpec("states", DType.FP32, ("batch", "sequence", 16)),),
)


def _entry(**fields: object) -> PackageEntry:
    return PackageEntry("p", "litert", "litert", Precision.FP32, (), **fields)  # type: ignore[arg-type]


def test_dimensions_are_named_once_in_order() -> None:
    assert named_dimensions(TEXT) == ("batch", "sequence")
    assert batch_dimension(TEXT) == "batch"
    assert batch_dimension(Signature((), ())) is None


def test_sizes_fix_their_dimensions_everywhere() -> None:
    fixed = with_sizes(TEXT, {"sequence": 7, "unheard_of": 3})
    assert [spec.shape for spec in fixed.inputs] == [("batch", 7), ("batch", 7)]
    assert fixed.outputs[0].shape == ("batch", 7, 16)


def test_dynamic_batch_fixes_nothing() -> None:
    assert with_batch(TEXT, "dynamic") is TEXT
    assert signature_of(_entry(), TEXT) is TEXT


def test_package_takes_what_its_files_fix() -> None:
    fixed = signature_of(_entry(batch=8, requires={"sizes": {"sequence": 32}}), TEXT)
    assert [spec.shape for spec in fixed.inputs] == [(8, 32), (8, 32)]
    assert fixed.outputs[0].shape == (8, 32, 16)


def test_sizes_that_are_no_sizes_fix_nothing() -> None:
    assert signature_of(_entry(requires={"sizes": "large"}), TEXT) is TEXT
    assert signature_of(_entry(requires={"sizes": {"sequence": "long"}}), TEXT) is TEXT


def test_folder_hands_out_packages_with_their_own_signature(tmp_path) -> None:

    folder = make_folder(tmp_path / "m")
    update_package(folder.root, msgspec.structs.replace(folder.reference.entry, batch=4))
    read = read_folder(folder.root)
    assert read.manifest.signature.inputs[0].shape == ("batch", 3)
    assert read.reference.signature.inputs[0].shape == (4, 3)
    assert read.packages[0].signature == read.reference.signature
