"""Single image files: PNG, JPEG and BMP through Pillow, and .npy. Never resized, never converted."""

from __future__ import annotations

import struct
import tokenize
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError
from pimchip.qat.data.types import ImageShape, shape_text

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_CHANNELS = {"L": 1, "RGB": 3}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24  # offset of the bit depth: signature 8, chunk length and name 8, width and height 8
# what NumPy raises on a header that is none: it reads the text as a Python literal
BAD_NPY = (
    OSError,
    ValueError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
    SyntaxError,
    tokenize.TokenError,
)
_MOST_BYTES = 1 << 28
_MOST_PIXELS = 1 << 24


def load_images(paths: Sequence[Path], image_shape: ImageShape) -> NDArray[np.uint8]:
    """Return the images of files, uint8 [n, channels, height, width], in the order given.

    paths: PNG, JPEG or BMP, one image each, 8 bits a channel, grey for 1 channel and RGB for 3; or .npy, uint8
    [n, c, h, w], for one channel also [n, h, w]. Orientation tags are not applied. InputError names the file: no such
    file, not an image, another mode or dtype, or a shape other than `image_shape` (nothing is resized).
    """
    if not paths:
        raise InputError("no image file was named")
    return np.concatenate([_read(path, image_shape) for path in paths])


def _read(path: Path, image_shape: ImageShape) -> NDArray[np.uint8]:
    if path.suffix.lower() == ".npy":
        return _read_npy(path, image_shape)
    return read_image(path, image_shape, "wanted", "convert it first, nothing is resized here")[None]


def read_image(
    path: Path, wanted: ImageShape | None = None, whose: str = "wanted", mend: str = "make them alike"
) -> NDArray[np.uint8]:
    """Return one PNG, JPEG or BMP image, uint8 [channels, height, width], writable.

    Where `wanted` is given another shape is an InputError, before the pixels are decoded; `whose` and `mend` go into
    its message. InputError also where the file is missing, not such an image, damaged, or in a mode other than L and
    RGB of 8 bits.
    """
    from PIL import Image, UnidentifiedImageError

    raw = _content(path)
    if raw.startswith(_PNG) and raw[_PNG_DEPTH : _PNG_DEPTH + 1] == b"\x10":
        # Pillow would cut 16-bit RGB down to 8 without a word
        raise InputError(f"{path}: has 16 bits a channel, wanted 8; convert it first")
    try:
        with Image.open(BytesIO(raw), formats=("PNG", "JPEG", "BMP")) as image:
            channels = _CHANNELS.get(image.mode)
            if channels is None:
                raise InputError(f"{path}: mode is {image.mode}, wanted L (grey) or RGB of 8 bits; convert it first")
            shape = (channels, image.height, image.width)
            if wanted is not None and shape != wanted:
                found = f"image is {shape_text(shape)} (c x h x w)"
                raise InputError(f"{path}: {found}, {whose} {shape_text(wanted)}; {mend}")
            if image.height * image.width > _MOST_PIXELS:
                raise InputError(f"{path}: image is {shape_text(shape)}; more than {_MOST_PIXELS} pixels are not read")
            pixels = np.array(image, np.uint8)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: is no PNG, JPEG or BMP image") from None
    except (OSError, SyntaxError, ValueError, OverflowError, EOFError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: damaged image: {error}") from None
    return np.ascontiguousarray(pixels.reshape(shape[1], shape[2], channels).transpose(2, 0, 1))


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder, wanted an image file' if path.is_dir() else 'no such file'}")
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InputError(f"{path}: has {size} bytes; an image file of more than {_MOST_BYTES} is not read")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _read_npy(path: Path, image_shape: ImageShape) -> NDArray[np.uint8]:
    stored = open_npy(path, image_shape)
    return np.array(stored, order="C").reshape(len(stored), *image_shape)


def open_npy(path: Path, image_shape: ImageShape) -> NDArray[np.uint8]:
    """A .npy of such images, uint8 [n, c, h, w] or for one channel [n, h, w], mapped: nothing is read yet. InputError names
    the file where it is none."""
    if not path.is_file():
        raise InputError(f"{path}: {'is a folder, wanted a .npy file' if path.is_dir() else 'no such file'}")
    try:
        # mapped, so that a header promising more than the file has fails before memory is taken;
        # open_memmap reads .npy alone and never an object array
        stored: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="r")
    except BAD_NPY as error:
        raise InputError(f"{path}: cannot be read as .npy: {' '.join(str(error).split())}") from None
    check_array(str(path), stored.dtype, stored.shape, image_shape)
    return stored


def check_array(source: str, dtype: np.dtype[Any], shape: tuple[int, ...], image_shape: ImageShape) -> None:
    """InputError, naming the source, unless an array is of such images; see open_npy."""
    if dtype != np.uint8:
        raise InputError(f"{source}: dtype is {dtype}, wanted uint8")
    fits = shape[1:] == image_shape or (image_shape[0] == 1 and shape[1:] == image_shape[1:])
    if not fits or shape[0] == 0:
        raise InputError(
            f"{source}: array is {shape_text(shape)}, wanted nx{shape_text(image_shape)} (n x c x h x w)"
            f"{' or nx' + shape_text(image_shape[1:]) if image_shape[0] == 1 else ''}; nothing is resized here"
        )
