"""Images into tensors: decode, colour, resize, crop, scale, normalise, as the manifest's `preprocess` says.

Knows nothing of what the tensor is for. OpenCV decodes and resizes and is imported when first needed; an
array that has the right size already needs none. Pixel values are 0 (black) to 255 (white) until `scale`.
Axes: `N` rows, `H` height, `W` width, `C` channels.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from runoff.errors import InputError, ManifestInvalid
from runoff.models.arrays import Array, numpy_dtype
from runoff.tasks.image_header import read_header
from runoff.types import DType, TensorSpec

MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 512 * 2**20

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]
"""One image, (H, W, C) with C 1 (gray) or 3 (red, green, blue); uint8, or float32 from 16-bit sources."""

_TAKEN = (DType.FP32, DType.FP16, DType.BF16, DType.UINT8)
# ITU-R BT.601, as JPEG and OpenCV weigh red, green and blue.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class ImagePreprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an image becomes the input tensor; the steps run in the order of the fields.

    Attributes:
        size: height and width of the tensor, in pixels.
        color: the channels of the tensor and their order.
        resize: `stretch` ignores the aspect ratio; `letterbox` keeps it, centres the image and fills the rest
            with `pad`; `center-crop` keeps it, covers the tensor and cuts off what stands out.
        crop_share: for `center-crop`, the part of the covering square that is kept: 0.875 is "resize the shorter
            side to 256, cut out 224".
        pad: pixel value, 0 to 255, that `letterbox` fills with; before `invert`.
        invert: replace each pixel value v by 255 - v, for dark ink on light paper.
        scale: factor on pixel values; 1/255 gives 0 to 1.
        mean: subtracted after `scale`, in its units: one figure, or one for each channel in the order of `color`.
        std: divided by after `mean`: likewise.
        layout: order of the axes: channels first or last.
    """

    size: tuple[int, int]
    color: Literal["gray", "rgb", "bgr"] = "rgb"
    resize: Literal["stretch", "letterbox", "center-crop"] = "stretch"
    crop_share: float = 1.0
    pad: int = 0
    invert: bool = False
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    def __post_init__(self) -> None:
        """Refuse values that no image can be made with; msgspec reports a ValueError as its own error."""
        if min(self.size) < 1 or math.prod(self.size) > MAX_PIXELS:
            raise ValueError(f"size {list(self.size)} is not a height and a width of at least 1 pixel")
        if not 0 < self.crop_share <= 1 or (self.crop_share != 1 and self.resize != "center-crop"):
            raise ValueError(f"crop_share is {self.crop_share}, expected 0 to 1 and resize 'center-crop'")
        if not 0 <= self.pad <= 255:
            raise ValueError(f"pad is {self.pad}, expected 0 to 255")
        if not math.isfinite(self.scale) or self.scale == 0:
            raise ValueError(f"scale is {self.scale}, expected a finite factor other than 0")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.num_channels) or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} is {list(values)}, expected 1 or {self.num_channels} finite figures")
        if 0 in self.std:
            raise ValueError("std has a 0, which nothing can be divided by")

    @property
    def num_channels(self) -> int:
        """Channels of the tensor."""
        return 1 if self.color == "gray" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one row of the tensor, in its layout."""
        height, width = self.size
        return (self.num_channels, height, width) if self.layout == "NCHW" else (height, width, self.num_channels)


Options = TypeVar("Options", bound=msgspec.Struct)


def parse_preprocess(config: dict[str, Any], kind: type[Options]) -> Options:
    """The manifest's `preprocess` as typed options.

    Raises:
        ManifestInvalid: a field is unknown, missing, of the wrong type or impossible.
    """
    try:
        return msgspec.convert(config, type=kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(kind.__struct_fields__)
        raise ManifestInvalid(f"the manifest's preprocess: {error}", hint=f"its fields are {fields}") from error


class ImageInput:
    """Fills one input of a model with images.

    Raises:
        ManifestInvalid: the options give a tensor that the input does not take.
    """

    def __init__(self, spec: TensorSpec, options: ImagePreprocess) -> None:
        shape = ("batch", *options.shape)
        fits = len(spec.shape) == 4 and all(
            isinstance(theirs, str) or isinstance(ours, str) or ours == theirs
            for ours, theirs in zip(shape, spec.shape, strict=True)
        )
        if not fits or spec.dtype not in _TAKEN:
            made = f"fp32[{', '.join(map(str, shape))}]"
            raise ManifestInvalid(f"the manifest's preprocess makes images into {made}, the model takes {spec}")
        self._options = options
        self._dtype = numpy_dtype(spec.dtype)

    @staticmethod
    def is_many(value: object) -> bool:
        """Whether a value is several images: a list, a tuple, or an array of rank 4."""
        return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 4)

    def prepare(self, value: object) -> Array:
        """The tensor of one image or of several: (N, C, H, W) or (N, H, W, C), in the input's dtype;
        for bytes rounded, and cut off at 0 and 255.

        Args:
            value: an image, or a list or a rank-4 array of them. An image is a path, the bytes of a file, an array
                (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8 or uint16 as red, green, blue, alpha, or an image
                object of Pillow.

        Raises:
            InputError: no image, an empty list, or something that is not an image; for a list it tells which.
        """
        if not self.is_many(value):
            return self._row(value)[None]
        images = cast("list[object]", value)
        if len(images) == 0:
            raise InputError("the list of images is empty")
        rows = np.empty((len(images), *self._options.shape), dtype=self._dtype)
        for index, image in enumerate(images):
            try:
                rows[index] = self._row(image)
            except InputError as error:
                raise InputError(f"image {index} of {len(images)}: {error.message}", hint=error.hint) from error
        return rows

    def _row(self, image: object) -> Array:
        options = self._options
        pixels = fit(in_color(load_image(image), options.color), options).astype(np.float32)
        if options.invert:
            pixels = 255 - pixels
        # (H, W, C), the channels' figures broadcast along the last axis
        mean, std = np.asarray(options.mean, np.float32), np.asarray(options.std, np.float32)
        tensor = (pixels * np.float32(options.scale) - mean) / std
        if options.layout == "NCHW":
            tensor = tensor.transpose(2, 0, 1)
        if self._dtype == np.uint8:
            tensor = np.clip(np.rint(tensor), 0, 255)
        return np.ascontiguousarray(tensor, dtype=self._dtype)


def load_image(value: object) -> Pixels:
    """Decode a path or bytes, or take an array or a Pillow image; alpha is laid over white.

    JPEG's orientation tag is obeyed; 16-bit values become float32 on the same 0 to 255.

    Returns: shape (H, W, 1) or (H, W, 3), red first.

    Raises:
        InputError: not an image, truncated, damaged, empty, more than `MAX_PIXELS` or `MAX_FILE_BYTES`.
    """
    if isinstance(value, (str, Path)):
        path = Path(value)
        try:
            return decode_image(_read_file(path))
        except InputError as error:
            raise InputError(f"{path}: {error.message}", hint=error.hint) from error
    if isinstance(value, (bytes, bytearray, memoryview)):
        return decode_image(bytes(value))
    if isinstance(value, np.ndarray):
        return _from_array(value)
    if hasattr(value, "__array_interface__"):
        # Pillow's palette, bilevel and CMYK images are not pixel values until they are converted.
        mode = getattr(value, "mode", "RGB")
        plain = value if mode in ("L", "RGB", "RGBA", "I;16") else cast("Any", value).convert("RGBA")
        return _from_array(np.asarray(plain))
    raise InputError(
        f"an image cannot be a {type(value).__name__}",
        hint="give a path, the bytes of an image file, or a uint8 array (height, width, 3); model.run takes tensors",
    )


def _read_file(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputError("there is no such file" if not path.exists() else "not a file")
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise InputError(f"the file has {size_bytes} bytes, images may have {MAX_FILE_BYTES}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"the file cannot be read: {error}") from error


def decode_image(data: bytes) -> Pixels:
    """Decode the bytes of a PNG, JPEG, BMP or WebP file; see `load_image`."""
    header = read_header(data)
    _check_size(header.height, header.width)
    cv2 = _opencv()
    # Only IMREAD_UNCHANGED keeps alpha, and it ignores the orientation tag; a JPEG has the tag and no alpha.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if header.format == "jpeg" else cv2.IMREAD_UNCHANGED
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"the {header.format} image cannot be decoded: {error}") from error
    if decoded is None:
        raise InputError(f"the {header.format} image is damaged", hint="copy or download the file again")
    if decoded.ndim == 3 and decoded.shape[2] >= 3:
        decoded = decoded[:, :, [2, 1, 0, 3][: decoded.shape[2]]]
    return _from_array(decoded)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"decoding or resizing images needs OpenCV, which cannot be imported: {error}",
            hint="pip install 'runoff[vision]'",
        ) from error
    return cv2


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise InputError(f"the image has {height} x {width} pixels: it is empty")
    if height * width > MAX_PIXELS:
        raise InputError(
            f"the image has {height} x {width} pixels, at most {MAX_PIXELS} are read", hint="scale it down"
        )


def _from_array(array: Array) -> Pixels:
    shape = list(array.shape)
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"an image array has dtype uint8 or uint16, got {array.dtype}", hint="tensors go to model.run, not here"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise InputError(
            f"an image array has shape (height, width) or (height, width, 1, 3 or 4 channels), got {shape}",
            hint="array.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else None,
        )
    _check_size(array.shape[0], array.shape[1])
    if array.dtype == np.uint16:
        return _over_white(array.astype(np.float32) / 257)
    return _over_white(array)


def _over_white(pixels: Array) -> Pixels:
    if pixels.shape[2] < 4:
        return cast("Pixels", pixels)
    values = pixels.astype(np.float32)
    alpha = values[:, :, 3:] / 255
    mixed = cast("NDArray[np.float32]", values[:, :, :3] * alpha + 255 * (1 - alpha))
    return _like(pixels, mixed)


def _like(pixels: Array, values: NDArray[np.float32]) -> Pixels:
    """Values computed from pixels, rounded where the pixels were whole numbers."""
    return np.rint(values).astype(np.uint8) if pixels.dtype == np.uint8 else values


def in_color(pixels: Pixels, color: Literal["gray", "rgb", "bgr"]) -> Pixels:
    """The image with the channels asked for: luma by BT.601, or gray repeated three times."""
    if color == "gray":
        if pixels.shape[2] == 1:
            return pixels
        return _like(pixels, (pixels.astype(np.float32) @ _LUMA)[:, :, None])
    if pixels.shape[2] == 1:
        return cast("Pixels", np.repeat(pixels, 3, axis=2))
    return pixels if color == "rgb" else pixels[:, :, ::-1]


def fit(pixels: Pixels, options: ImagePreprocess) -> Pixels:
    """The image at `options.size`, shape (H, W, C), by the way that `options.resize` names."""
    (height, width), (wanted_height, wanted_width) = pixels.shape[:2], options.size
    if options.resize == "stretch":
        return _resized(pixels, wanted_height, wanted_width)
    ratios = wanted_height / height, wanted_width / width
    if options.resize == "letterbox":
        ratio = min(ratios)
        inner_height = min(max(round(height * ratio), 1), wanted_height)
        inner_width = min(max(round(width * ratio), 1), wanted_width)
        filled = np.full((wanted_height, wanted_width, pixels.shape[2]), options.pad, dtype=pixels.dtype)
        top, left = (wanted_height - inner_height) // 2, (wanted_width - inner_width) // 2
        filled[top : top + inner_height, left : left + inner_width] = _resized(pixels, inner_height, inner_width)
        return filled
    # Only what stays is resized: a strip of 1 x 100 000 pixels must not become a huge one first.
    ratio = max(ratios) / options.crop_share
    kept_height, kept_width = (
        min(max(round(wanted_height / ratio), 1), height),
        min(max(round(wanted_width / ratio), 1), width),
    )
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return _resized(pixels[top : top + kept_height, left : left + kept_width], wanted_height, wanted_width)


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    """Shrink by area, enlarge by linear interpolation, each axis for itself."""
    least_height, least_width = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    if (least_height, least_width) != pixels.shape[:2]:
        pixels = _cv2_resize(pixels, least_height, least_width, "INTER_AREA")
    if (height, width) != pixels.shape[:2]:
        pixels = _cv2_resize(pixels, height, width, "INTER_LINEAR")
    return pixels


def _cv2_resize(pixels: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    cv2 = _opencv()
    resized = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=getattr(cv2, interpolation))
    # OpenCV drops the axis of a single channel.
    return cast("Pixels", resized.reshape(height, width, pixels.shape[2]))
