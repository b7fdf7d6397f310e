"""What an encoded image says about itself, read from its bytes before anything is decoded.

A decoder allocates what a header claims and pads what is missing with grey, so size and completeness are
checked here first. Knows PNG, JPEG, BMP and WebP; knows no decoder.
Sources: PNG 3rd edition section 5; ITU-T T.81 annex B; RFC 9649 (WebP); the BITMAPINFOHEADER of Windows.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from runoff.errors import InputError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_JPEG_END = b"\xff\xd9"


class ImageHeader(NamedTuple):
    """Format name and size in pixels of an encoded image."""

    format: str
    height: int
    width: int


def read_header(data: bytes) -> ImageHeader:
    """Format and size of an encoded image that is there from its first to its last byte.

    Raises:
        InputError: no bytes, no known image format, truncated, or damaged where that can be told cheaply.
    """
    if not data:
        raise InputError("the image has no bytes")
    try:
        if data.startswith(_PNG):
            return _read_png(data)
        if data.startswith(_JPEG):
            return _read_jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _read_webp(data)
        if data[:2] == b"BM" and len(data) >= 26:
            return _read_bmp(data)
    except (struct.error, IndexError):
        raise _truncated("image") from None
    raise InputError(
        f"not an image: the first bytes are {data[:8]!r}",
        hint="PNG, JPEG, BMP and WebP are read; convert it to one of them",
    )


def _truncated(name: str) -> InputError:
    return InputError(f"the {name} is truncated: its end is missing", hint="copy or download the file again")


def _read_png(data: bytes) -> ImageHeader:
    offset = len(_PNG)
    size: tuple[int, int] | None = None
    while True:
        if offset + 12 > len(data):
            raise _truncated("PNG")
        length, kind = struct.unpack_from(">I4s", data, offset)
        body_end = offset + 8 + length
        if body_end + 4 > len(data):
            raise _truncated("PNG")
        if zlib.crc32(data[offset + 4 : body_end]) != struct.unpack_from(">I", data, body_end)[0]:
            raise InputError(f"the PNG is damaged: its chunk {kind!r} fails its checksum", hint="copy the file again")
        if kind == b"IHDR" and size is None:
            size = struct.unpack_from(">II", data, offset + 8)
        if kind == b"IEND":
            break
        offset = body_end + 4
    if size is None:
        raise InputError("the PNG is damaged: it has no header")
    return ImageHeader("png", height=size[1], width=size[0])


def _read_jpeg(data: bytes) -> ImageHeader:
    offset = len(_JPEG)
    size: tuple[int, int] | None = None
    while True:
        marker = data[offset + 1]
        if data[offset] != 0xFF:
            raise InputError(f"the JPEG is damaged: no marker at byte {offset}", hint="copy the file again")
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        length = struct.unpack_from(">H", data, offset + 2)[0]
        if marker in _JPEG_FRAMES and size is None:
            size = struct.unpack_from(">HH", data, offset + 5)
        offset += 2 + length
        if marker == _JPEG_SCAN:
            break
    # In entropy-coded data 0xFF is followed by 0x00 or a restart marker, so the first end marker is the end.
    # A thumbnail's end marker lies before the scan.
    if data.find(_JPEG_END, offset) < 0:
        raise _truncated("JPEG")
    if size is None:
        raise InputError("the JPEG is damaged: its scan comes before its frame")
    return ImageHeader("jpeg", height=size[0], width=size[1])


def _read_webp(data: bytes) -> ImageHeader:
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise _truncated("WebP")
    kind = data[12:16]
    if kind == b"VP8X":
        return ImageHeader("webp", 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little"))
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return ImageHeader("webp", 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("webp", height & 0x3FFF, width & 0x3FFF)
    raise InputError(f"the WebP is damaged: its first chunk is {kind!r}")


def _read_bmp(data: bytes) -> ImageHeader:
    pixels_at, header_bytes = struct.unpack_from("<II", data, 10)
    if header_bytes == 12:  # the header of OS/2
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", data, 18)
    # A negative height means that the rows are stored from the top.
    height = abs(height)
    row_bytes = (width * depth + 31) // 32 * 4
    if compression == 0 and len(data) < pixels_at + row_bytes * height:
        raise _truncated("BMP")
    return ImageHeader("bmp", height, width)
