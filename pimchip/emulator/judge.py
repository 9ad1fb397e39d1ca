"""What a request on layers and maps may ask for. Raises Refusals, in the order of SPEC.md section 9, before anything is done.

Work is counted, not timed, so that every device refuses the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pimchip.chip import Geometry, PimLayer, Requant
from pimchip.chip.adc import column_stride
from pimchip.emulator.virtual import VirtualBoard
from pimchip.errors import FullError, InputError
from pimchip.kernels.maps import FeatureMap
from pimchip.link.constants import Status
from pimchip.link.refusals import Refusal

IMAGE_WORK = 1 << 28
"""Most values of one padded image, and of all its windows."""
CONV_WORK = 1 << 38
DIGITAL_WORK = 1 << 35
POOL_WORK = 1 << 32
FIELD_MAX = 1 << 24
"""Of kernels and strides."""
LAYER_CELLS = 1 << 28
"""Largest layer here: products of an output times columns, of all copies."""
LAYER_PARTS = 1 << 20
"""Row groups of all copies times kernel positions of a layer here."""
Shape = tuple[int, int, int, int]
"""Images, channels, height, width."""


@contextmanager
def refusing(status: Status) -> Iterator[None]:
    """An InputError within is this refusal."""
    try:
        yield
    except InputError as error:
        raise Refusal(status, str(error)) from None


def held(board: VirtualBoard, buffer: int) -> FeatureMap:
    """What a buffer holds, or EMPTY."""
    with refusing(Status.EMPTY):
        return board.map_of(buffer)


def shape_of(x: FeatureMap) -> Shape:
    """As the protocol has it."""
    n, h, w, c = x.shape
    return n, c, h, w


def output_shape(x: FeatureMap, geometry: Geometry, requant: Requant | None) -> Shape:
    """Of a convolution, or SHAPE; so for a requantization of another number of channels."""
    n, c, h, w = shape_of(x)
    with refusing(Status.SHAPE):
        out = n, *geometry.output_shape((c, h, w))
        if requant is not None:
            requant.check_channels(geometry.out_channels)
    return out


def pooling(kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> None:
    """ARGUMENT for windows that cannot be."""
    both = (*kernel, *stride)
    if min(both) < 1 or max(both) > FIELD_MAX or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise Refusal(Status.ARGUMENT, f"pool with kernel {kernel}, stride {stride}, padding {padding}")


def pooled_shape(x: FeatureMap, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Shape:
    """Of a pooled map, or SHAPE."""
    n, c, h, w = shape_of(x)
    with refusing(Status.SHAPE):
        _, *size = Geometry(1, 1, kernel, stride, padding).output_shape((1, h, w))
    return n, c, size[0], size[1]


def work(
    x: FeatureMap, out: Shape, window: int, each: int, most: int, padding: tuple[int, int], source: tuple[int, int, int]
) -> None:
    """FULL for more than one request may ask for.

    window: values that an output position looks at; each: times that each of them is used; most: of all such uses.
    source: channels, height and width under which the map is read.
    """
    channels, height, width = source
    image = channels * (height + 2 * padding[0]) * (width + 2 * padding[1])
    windows = out[2] * out[3] * window
    asked = windows * x.shape[0] * each
    if max(image, windows) > IMAGE_WORK or asked > most:
        raise Refusal(
            Status.FULL,
            f"too much for one request: {image} values of a padded image and {windows} of its windows, at most "
            f"{IMAGE_WORK}; {asked} operations, at most {most}: use a smaller batch, kernel or padding",
        )


def conv_work(x: FeatureMap, out: Shape, layer: PimLayer) -> None:
    """FULL for a layer on the array that is too much, or too large to be emulated."""
    g, mac = layer.geometry, layer.mac
    each = layer.columns * mac.slices
    work(x, out, g.depth, each, CONV_WORK, g.padding, g.input_shape(shape_of(x)[1:]))
    groups = layer.groups * layer.copies
    if g.depth * layer.columns * layer.copies > LAYER_CELLS or groups * g.kernel[0] * g.kernel[1] > LAYER_PARTS:
        raise Refusal(Status.FULL, f"layer {layer.name}: {g.depth} x {layer.columns} cells in {groups} groups")


def noise(out: Shape, layer: PimLayer, first_image: int) -> None:
    """ARGUMENT where indices of the noise would pass 63 bits."""
    vectors = (first_image + out[0]) * out[2] * out[3]
    if vectors * layer.groups * layer.mac.slices * column_stride(layer.columns) > 1 << 63:
        raise Refusal(Status.ARGUMENT, f"noise index passes 63 bits: start at an earlier image than {first_image}")


def room(board: VirtualBoard, buffer: int, shape: Shape, *, small: bool) -> None:
    """FULL where memory does not hold a map, of bytes or of words, in place of what is there."""
    try:
        board.check_room(buffer, shape[0] * shape[1] * shape[2] * shape[3] * (1 if small else 4))
    except FullError as error:
        raise Refusal(Status.FULL, str(error)) from None


def small(low: int, high: int) -> bool:
    """True where results within these bounds are kept as bytes."""
    return low >= 0 and high <= 255
