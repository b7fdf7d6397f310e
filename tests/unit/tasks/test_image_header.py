"""Size and completeness of encoded images, read without decoding."""

import cv2
import numpy as np
import pytest

from runoff.errors import InputError
from runoff.tasks.image_header import read_header

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
WITH_ALPHA = np.dstack([PIXELS, np.full((20, 31), 128, np.uint8)])


def encode(extension: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(extension, pixels, list(options))[1].tobytes()


FILES = {
    "png": encode(".png", PIXELS),
    "jpeg": encode(".jpg", PIXELS),
    "jpeg-progressive": encode(".jpg", PIXELS, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "bmp": encode(".bmp", PIXELS),
    "webp-lossless": encode(".webp", PIXELS),
    "webp-lossy": encode(".webp", PIXELS, cv2.IMWRITE_WEBP_QUALITY, 50),
    "webp-extended": encode(".webp", WITH_ALPHA, cv2.IMWRITE_WEBP_QUALITY, 50),
}


@pytest.mark.parametrize("name", FILES)
def test_format_and_size_are_read(name: str):
    assert read_header(FILES[name]) == (name.split("-")[0], 20, 31)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_refused(name: str):
    data = FILES[name]
    for length in range(len(data)):
        with pytest.raises(InputError):
            read_header(data[:length])


def test_the_webp_samples_cover_its_three_kinds():
    kinds = {FILES[name][12:16] for name in FILES if name.startswith("webp")}
    assert kinds == {b"VP8L", b"VP8 ", b"VP8X"}


def test_what_follows_the_end_is_ignored():
    for data in FILES.values():
        assert read_header(data + b"a trailer that some cameras write")[1:] == (20, 31)


def test_a_thumbnail_does_not_hide_a_truncation():
    data = FILES["jpeg"]
    thumbnail = b"\xff\xe1\x00\x0a" + b"Exif\0\0\xff\xd9"
    with pytest.raises(InputError, match="truncated"):
        read_header(data[:2] + thumbnail + data[2:-2])


def test_a_png_is_refused_when_a_byte_was_flipped():
    data = bytearray(FILES["png"])
    data[len(data) // 2] ^= 1
    with pytest.raises(InputError, match="fails its checksum"):
        read_header(bytes(data))


def test_a_jpeg_is_refused_when_a_segment_is_not_where_it_should_be():
    data = bytearray(FILES["jpeg"])
    data[5] ^= 1
    with pytest.raises(InputError, match="damaged"):
        read_header(bytes(data))
