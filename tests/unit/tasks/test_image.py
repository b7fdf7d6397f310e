"""Every preprocess option against values computed by hand, and everything that is not an image."""

import struct
import sys
import zlib
from typing import Any

import cv2
import ml_dtypes
import numpy as np
import pytest

from runoff.errors import InputError, ManifestInvalid
from runoff.tasks.image import ImageInput, ImagePreprocess, load_image, parse_preprocess
from runoff.types import DType, TensorSpec

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def image_input(dtype: DType = DType.FP32, **options: Any) -> ImageInput:
    parsed = parse_preprocess({"scale": 1.0, **options}, ImagePreprocess)
    return ImageInput(TensorSpec("image", dtype, ("batch", *parsed.shape)), parsed)


def gray(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)


def png(width: int, height: int, depth: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encode(extension: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


# options


def test_values_are_scaled_then_centred_then_divided_when_mean_and_std_are_given():
    tensor = image_input(size=[1, 2], color="gray", scale=1 / 255, mean=[0.5], std=[0.25]).prepare(gray([0, 255]))
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor, [[[[-2.0, 2.0]]]], rtol=1e-6)


def test_scale_is_one_255th_when_it_is_not_given():
    options = parse_preprocess({"size": [1, 1], "color": "gray"}, ImagePreprocess)
    tensor = ImageInput(TensorSpec("image", DType.FP32, (1, 1, 1, 1)), options).prepare(gray([51]))
    np.testing.assert_allclose(tensor, [[[[0.2]]]], rtol=1e-6)


def test_mean_and_std_follow_the_order_of_the_channels_when_color_is_bgr():
    pixel = np.array([[[10, 20, 30]]], dtype=np.uint8)
    tensor = image_input(size=[1, 1], color="bgr", mean=[1, 2, 3], std=[1, 2, 3]).prepare(pixel)
    np.testing.assert_allclose(tensor[0, :, 0, 0], [30 - 1, (20 - 2) / 2, (10 - 3) / 3], rtol=1e-6)


@pytest.mark.parametrize(("color", "expected"), [("rgb", [10, 20, 30]), ("bgr", [30, 20, 10])])
def test_channels_stand_in_the_order_of_color(color: str, expected: list[int]):
    pixel = np.array([[[10, 20, 30]]], dtype=np.uint8)
    assert image_input(size=[1, 1], color=color).prepare(pixel)[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize(("pixel", "luma"), [(RED, 76), (GREEN, 150), (BLUE, 29)])
def test_colours_become_luma_when_color_is_gray(pixel: tuple[int, ...], luma: int):
    tensor = image_input(size=[1, 1], color="gray").prepare(np.array([[pixel]], dtype=np.uint8))
    assert tensor.tolist() == [[[[luma]]]]


def test_gray_is_repeated_when_color_is_rgb():
    assert image_input(size=[1, 1], color="rgb").prepare(gray([7]))[0, :, 0, 0].tolist() == [7, 7, 7]


def test_values_are_mirrored_before_scaling_when_invert_is_set():
    tensor = image_input(size=[1, 2], color="gray", invert=True, scale=2.0).prepare(gray([0, 250]))
    assert tensor.tolist() == [[[[510, 10]]]]


@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (1, 3, 2, 4)), ("NHWC", (1, 2, 4, 3))])
def test_axes_stand_in_the_order_of_layout(layout: str, shape: tuple[int, ...]):
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor = image_input(size=[2, 4], layout=layout).prepare(image)
    assert tensor.shape == shape
    assert tensor.flags.c_contiguous
    plain = tensor[0] if layout == "NHWC" else tensor[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(plain, image)


def test_area_is_averaged_when_an_image_is_stretched_down():
    image = gray([0, 40, 100, 100], [80, 120, 200, 200])
    assert image_input(size=[1, 2], color="gray").prepare(image).tolist() == [[[[60, 150]]]]


def test_each_axis_is_resized_its_own_way_when_one_shrinks_and_one_grows():
    image = gray([0, 100], [100, 200])
    tensor = image_input(size=[1, 4], color="gray").prepare(image)
    # Rows are averaged to 50, 150; then linear between the two centres.
    assert tensor.tolist() == [[[[50, 75, 125, 150]]]]


def test_the_rest_is_padded_evenly_when_an_image_is_letterboxed():
    image = gray([10, 10, 20, 20], [10, 10, 20, 20])
    tensor = image_input(size=[3, 2], color="gray", resize="letterbox", pad=99).prepare(image)
    assert tensor.tolist() == [[[[99, 99], [10, 20], [99, 99]]]]


def test_the_odd_line_of_padding_comes_last_when_an_image_is_letterboxed():
    tensor = image_input(size=[2, 2], color="gray", resize="letterbox", pad=9).prepare(gray([1, 2]))
    assert tensor.tolist() == [[[[1, 2], [9, 9]]]]


def test_one_line_remains_when_an_extreme_strip_is_letterboxed():
    tensor = image_input(size=[4, 4], color="gray", resize="letterbox").prepare(np.full((1, 1000), 50, np.uint8))
    assert sorted(set(tensor.ravel().tolist())) == [0, 50]
    assert int((tensor == 50).sum()) == 4


def test_the_middle_remains_when_an_image_is_center_cropped():
    image = gray([1, 2, 3, 4], [5, 6, 7, 8])
    tensor = image_input(size=[2, 2], color="gray", resize="center-crop").prepare(image)
    assert tensor.tolist() == [[[[2, 3], [6, 7]]]]


def test_less_than_the_covering_square_remains_when_crop_share_is_below_one():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    tensor = image_input(size=[2, 2], color="gray", resize="center-crop", crop_share=0.5).prepare(image)
    assert tensor.tolist() == [[[[5, 6], [9, 10]]]]


@pytest.mark.parametrize(
    ("dtype", "expected"), [(DType.FP16, np.float16), (DType.BF16, ml_dtypes.bfloat16), (DType.FP32, np.float32)]
)
def test_the_tensor_has_the_dtype_of_the_input(dtype: DType, expected: Any):
    assert image_input(dtype, size=[1, 1], color="gray").prepare(gray([7])).dtype == expected


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "missing required field `size`"),
        ({"size": [8, 8], "sizes": 1}, "unknown field `sizes`"),
        ({"size": [8]}, "size"),
        ({"size": [0, 8]}, "at least 1 pixel"),
        ({"size": [100_000, 100_000]}, "size"),
        ({"size": [8, 8], "color": "cmyk"}, "cmyk"),
        ({"size": [8, 8], "resize": "fit"}, "fit"),
        ({"size": [8, 8], "mean": [0.5, 0.5]}, "expected 1 or 3"),
        ({"size": [8, 8], "std": [1, 0, 1]}, "std has a 0"),
        ({"size": [8, 8], "scale": 0}, "scale"),
        ({"size": [8, 8], "scale": float("nan")}, "scale"),
        ({"size": [8, 8], "pad": 256}, "pad"),
        ({"size": [8, 8], "crop_share": 0.5}, "center-crop"),
        ({"size": [8, 8], "crop_share": 0, "resize": "center-crop"}, "crop_share"),
        ({"size": "8x8"}, "size"),
    ],
)
def test_preprocess_is_refused_when_a_field_is_unknown_or_impossible(config: dict[str, Any], said: str):
    with pytest.raises(ManifestInvalid, match="preprocess") as caught:
        parse_preprocess(config, ImagePreprocess)
    assert said in caught.value.message
    assert "size" in str(caught.value.hint)


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("image", DType.FP32, ("batch", 1, 8, 8)),
        TensorSpec("image", DType.FP32, ("batch", 3, 8, 9)),
        TensorSpec("image", DType.FP32, ("batch", 8, 8, 3)),
        TensorSpec("image", DType.FP32, (3, 8, 8)),
        TensorSpec("image", DType.INT64, ("batch", 3, 8, 8)),
    ],
)
def test_preprocess_is_refused_when_the_input_takes_another_tensor(spec: TensorSpec):
    with pytest.raises(ManifestInvalid, match="the model takes image"):
        ImageInput(spec, ImagePreprocess(size=(8, 8)))


# sources


@pytest.mark.parametrize("extension", [".png", ".bmp", ".webp"])
def test_pixels_come_back_in_red_green_blue_when_a_lossless_file_is_decoded(extension: str):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(load_image(encode(extension, pixels[:, :, ::-1])), pixels)


def test_a_path_bytes_and_an_array_give_the_same_tensor(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = encode(".png", pixels[:, :, ::-1])
    (tmp_path / "a.png").write_bytes(data)
    fill = image_input(size=[4, 4])
    expected = fill.prepare(pixels)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), data, bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(fill.prepare(source), expected)


def test_a_jpeg_is_turned_upright_when_it_has_an_orientation_tag():
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    plain = encode(".jpg", pixels)
    turn_clockwise = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    tag = b"\xff\xe1" + struct.pack(">H", 8 + len(turn_clockwise)) + b"Exif\0\0" + turn_clockwise
    turned = load_image(plain[:2] + tag + plain[2:])
    assert turned.shape == (32, 16, 3)
    assert turned[:12].max() < 20
    assert turned[20:].min() > 235


def test_alpha_is_laid_over_white_when_an_image_has_it():
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    assert load_image(pixels).tolist() == expected
    assert load_image(encode(".png", pixels[:, :, [2, 1, 0, 3]])).tolist() == expected


def test_sixteen_bits_keep_their_resolution_when_scaled_to_255():
    pixels = np.array([[0, 1, 257, 65535]], dtype=np.uint16)
    loaded = load_image(encode(".png", pixels))
    np.testing.assert_allclose(loaded[0, :, 0], [0, 1 / 257, 1, 255], rtol=1e-6)


def test_palette_and_bilevel_files_are_expanded_to_pixel_values():
    palette = chunk(b"PLTE", bytes([*RED, *GREEN]))
    assert load_image(png(2, 1, 8, 3, b"\0\0\1", palette)).tolist() == [[list(RED), list(GREEN)]]
    see_through = palette + chunk(b"tRNS", bytes([255, 0]))
    assert load_image(png(2, 1, 8, 3, b"\0\0\1", see_through)).tolist() == [[list(RED), [255, 255, 255]]]
    assert load_image(png(2, 1, 1, 0, b"\0\x40")).tolist() == [[[0], [255]]]


class PaletteImage:
    """What a Pillow image in palette mode looks like from outside: its array holds indices, not colours."""

    mode = "P"
    __array_interface__ = np.zeros((1, 1), np.uint8).__array_interface__

    def convert(self, mode: str) -> np.ndarray:
        assert mode == "RGBA"
        return np.array([[[*RED, 255]]], dtype=np.uint8)


def test_an_image_object_is_converted_when_its_array_holds_no_colours():
    assert load_image(PaletteImage()).tolist() == [[list(RED)]]


# batches


def test_rows_stand_in_order_when_images_of_unequal_size_are_listed():
    tensor = image_input(size=[1, 1], color="gray").prepare([gray([1]), gray([4, 6]), encode(".png", gray([9]))])
    assert tensor.tolist() == [[[[1]]], [[[5]]], [[[9]]]]


def test_an_array_of_rank_four_is_a_batch():
    fill = image_input(size=[1, 1], color="gray")
    assert fill.prepare(np.array([3, 4], np.uint8).reshape(2, 1, 1, 1)).ravel().tolist() == [3, 4]
    assert fill.is_many(np.zeros((1, 1, 1, 1), np.uint8))
    assert not fill.is_many(np.zeros((1, 1, 1), np.uint8))


def test_the_bad_one_is_named_when_a_list_holds_one():
    with pytest.raises(InputError, match="image 1 of 2: an image cannot be a int"):
        image_input(size=[1, 1]).prepare([gray([1]), 5])


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 8, 8, 3), np.uint8)])
def test_an_empty_list_is_refused(nothing: Any):
    with pytest.raises(InputError, match="the list of images is empty"):
        image_input(size=[1, 1]).prepare(nothing)


# bad images


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "no bytes"),
        (b"GIF89a, or any other text", "not an image"),
        (png(60_000, 60_000, 8, 2, b""), "60000 x 60000 pixels, at most"),
        (png(0, 5, 8, 0, b""), "it is empty"),
        (png(2, 200, 8, 0, b"\0\1\2"), "damaged"),
        (np.zeros((0, 3), np.uint8), "it is empty"),
        (np.zeros((8, 8), np.float32), "dtype uint8 or uint16"),
        (np.zeros((8, 8, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros(8, np.uint8), "1, 3 or 4 channels"),
        (np.broadcast_to(np.uint8(0), (20_000, 20_000)), "at most"),
        (None, "cannot be a NoneType"),
        ({"image": np.zeros((8, 8), np.uint8)}, "cannot be a dict"),
        ("no/such/file.png", "there is no such file"),
        (".", "not a file"),
        ("nul\0character", "nul"),
    ],
)
def test_input_is_refused_when_it_is_not_an_image(value: Any, said: str):
    with pytest.raises(InputError) as caught:
        image_input(size=[8, 8]).prepare(value)
    assert said in caught.value.message


def test_the_hint_transposes_when_channels_come_first():
    with pytest.raises(InputError) as caught:
        load_image(np.zeros((3, 8, 8), np.uint8))
    assert caught.value.hint == "array.transpose(1, 2, 0)"


def test_the_path_is_named_when_a_file_is_truncated(tmp_path):
    path = tmp_path / "half.png"
    path.write_bytes(encode(".png", gray([1, 2, 3]))[:-20])
    with pytest.raises(InputError, match=r"half\.png: the PNG is truncated"):
        load_image(path)


def test_a_file_is_refused_unread_when_it_is_huge(tmp_path):
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="1099511627776 bytes"):
        load_image(path)


# without OpenCV


def test_the_extra_is_named_when_opencv_is_missing(monkeypatch: pytest.MonkeyPatch):
    data = encode(".png", gray([1, 2]))
    monkeypatch.setitem(sys.modules, "cv2", None)
    for value in (data, gray([1, 2])):
        with pytest.raises(InputError, match="needs OpenCV") as caught:
            image_input(size=[1, 1], color="gray").prepare(value)
        assert caught.value.hint == "pip install 'runoff[vision]'"


def test_opencv_is_not_needed_when_an_array_has_the_right_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    tensor = image_input(size=[1, 1], color="gray").prepare(np.array([[[*RED, 255]]], dtype=np.uint8))
    assert tensor.tolist() == [[[[76]]]]
