"""What a board is asked for, as the protocol writes it: tiles, operating points, layers, requantizations, and back.

Both ends use it: the driver to ask, the emulated board to be asked. Reading raises InputError for values that cannot be,
and refuses lengths that are not what a head says with SHAPE.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import Geometry, Mac, PimLayer, Placement, Requant, Run, Tile
from pimchip.chip.correction import Correction
from pimchip.chip.mac import Int8, Scheme
from pimchip.chip.spec import SUM_LIMIT
from pimchip.errors import InputError
from pimchip.link import messages
from pimchip.link.constants import Status
from pimchip.link.refusals import Refusal

SCHEMES = (Scheme.NATIVE, Scheme.DIFFERENTIAL, Scheme.BIT_SERIAL)
ACC_LIMIT = 1 << 31
"""No accumulator of a board is larger in magnitude, so no larger acc_max means anything."""
DEPTH_LIMIT = 1 << 32
"""Products of an output stay below this."""
PLACEMENTS = 4096
"""Most of a layer."""
WINDOW = 1 << 24
"""Most products of an output of a digital convolution: sums of them stay within 63 bits."""
ADC_BITS = 14
"""Most of a converter; one more where codes are signed."""
_CHANNEL = np.dtype([("multiplier", "<i8"), ("offset", "<i8"), ("shift", "<u4"), ("reserved", "<u4")])


def tile_message(tile: Tile) -> messages.Tile:
    return messages.Tile(tile.macro, tile.row, tile.column, tile.rows, tile.columns)


def tile_of(m: messages.Tile) -> Tile:
    return Tile(m.macro, m.row, m.column, m.rows, m.columns)


def mac_message(mac: Mac) -> messages.Mac:
    return messages.Mac(
        SCHEMES.index(mac.scheme), mac.weight_bits, mac.act_bits, mac.dac_bits, mac.adc_bits, 0, mac.range_divisor, mac.rows
    )  # fmt: skip


def mac_of(m: messages.Mac) -> Mac:
    if m.scheme >= len(SCHEMES):
        raise InputError(f"scheme {m.scheme} is none of 0..{len(SCHEMES) - 1}")
    mac = Mac(SCHEMES[m.scheme], m.rows, m.weight_bits, m.act_bits, m.dac_bits, m.adc_bits, m.range_divisor)
    if m.reserved or m.adc_bits > ADC_BITS + mac.signed or mac.sum_max >= SUM_LIMIT:
        raise InputError(
            f"operating point {mac.describe()}: codes of {m.adc_bits} bits or sums to {mac.sum_max} cannot be"
        )
    return mac


def geometry_message(g: Geometry) -> messages.Geometry:
    return messages.Geometry(g.in_channels, g.out_channels, g.kernel, g.stride, g.padding, g.dilation)


def geometry_of(m: messages.Geometry) -> Geometry:
    geometry = Geometry(m.in_channels, m.out_channels, m.kernel, m.stride, m.padding, m.dilation)
    if geometry.depth >= DEPTH_LIMIT:
        raise InputError(f"{geometry}: {geometry.depth} products of an output, want less than 2^32")
    return geometry


def noise_message(run: Run | None) -> messages.Noise:
    run = run or Run()
    return messages.Noise(run.epoch, run.first_image)


def run_of(m: messages.Noise) -> Run:
    return Run(m.epoch, m.first_image)


def layer_bytes(layer: PimLayer) -> bytes:
    """Region LAYER."""
    name = layer.name.encode()[:32].decode(errors="ignore").encode()
    geometry, mac = geometry_message(layer.geometry), mac_message(layer.mac)
    head = messages.LayerHead(mac, geometry, len(layer.placements), name)
    placements = sorted(layer.placements, key=lambda p: p.copy)
    parts = [messages.Placement(tile_message(p.tile), p.group, p.first_column).pack() for p in placements]
    copies = b"" if layer.copies == 1 else _copies_bytes(layer)
    return (
        head.pack()
        + b"".join(parts)
        + copies
        + (b"" if layer.correction is None else _correction_bytes(layer.correction))
    )


def _copies_bytes(layer: PimLayer) -> bytes:
    counts = np.bincount([p.copy for p in layer.placements])
    return messages.CopiesHead(0, layer.copies).pack() + counts.astype("<u4").tobytes()


def _copies_of(data: bytes, placements: int) -> tuple[NDArray[np.int64], int]:
    """How many of a layer's placements each copy has, and how many bytes of what follows them say so: none for one copy."""
    size = messages.CopiesHead.size()
    if len(data) < size or (head := messages.CopiesHead.unpack(data[:size])).mark:
        return np.array([placements]), 0
    end = size + 4 * head.copies
    if len(data) < end:
        raise Refusal(
            Status.SHAPE,
            f"{len(data)} bytes after the placements of a layer do not hold counts of {head.copies} copies",
        )
    return np.frombuffer(data, "<u4", head.copies, size).astype(np.int64), end


def _correction_bytes(correction: Correction) -> bytes:
    head = messages.CorrectionHead(len(correction.values), correction.fraction_bits)
    return head.pack() + correction.values.astype("<i2").tobytes()


def _may_correct(data: bytes) -> bool:
    """Whether what follows the placements of a layer is nothing, or may be a correction; whatever the layer's fields are."""
    size = messages.CorrectionHead.size()
    if len(data) < size:
        return not data
    converters = messages.CorrectionHead.unpack(data[:size]).converters
    return converters > 0 and len(data) > size and (len(data) - size) % (2 * converters) == 0


def _correction_of(data: bytes, mac: Mac) -> Correction:
    """What follows the placements of a layer at `mac`."""
    size, codes = messages.CorrectionHead.size(), mac.code_max - mac.code_min + 1
    if len(data) < size:
        raise Refusal(Status.SHAPE, f"a correction of {len(data)} bytes: want at least {size}")
    head = messages.CorrectionHead.unpack(data[:size])
    if len(data) != size + 2 * head.converters * codes:
        raise Refusal(Status.SHAPE, f"a correction of {len(data)} bytes is none of {head.converters} converters")
    values = np.frombuffer(data, "<i2", offset=size).reshape(head.converters, codes).astype(np.int16)
    return Correction(mac, head.fraction_bits, values)


def layer_of(data: bytes) -> PimLayer:
    """What layer_bytes gave."""
    size, each = messages.LayerHead.size(), messages.Placement.size()
    if len(data) < size:
        raise Refusal(Status.SHAPE, f"a layer of {len(data)} bytes: want at least {size}")
    head = messages.LayerHead.unpack(data[:size])
    end = size + head.placements * each
    counts, counted = _copies_of(data[end:], head.placements)
    rest = data[end + counted :]
    if len(data) < end or not _may_correct(rest):
        raise Refusal(Status.SHAPE, f"a layer of {len(data)} bytes does not hold {head.placements} placements")
    if head.placements > PLACEMENTS:
        raise InputError(f"a layer of {head.placements} placements: at most {PLACEMENTS}")
    if counted and (len(counts) < 2 or counts.min() < 1 or counts.sum() != head.placements):
        raise InputError(
            f"{len(counts)} copies of {counts.sum()} placements in all: want at least 2, of {head.placements}"
        )
    parts = [messages.Placement.unpack(data[at : at + each]) for at in range(size, end, each)]
    copies = np.repeat(np.arange(len(counts)), counts).tolist()
    placements = tuple(
        Placement(tile_of(p.tile), p.group, p.first_column, copy) for p, copy in zip(parts, copies, strict=True)
    )
    name = head.name.rstrip(b"\0").decode(errors="replace")
    mac = mac_of(head.mac)
    correction = _correction_of(rest, mac) if rest else None
    return PimLayer(name, mac, geometry_of(head.geometry), placements, correction)


def requant_bytes(requant: Requant) -> bytes:
    """Region REQUANT."""
    acc_max = min(requant.acc_max, ACC_LIMIT)
    head = messages.RequantHead(len(requant.multiplier), requant.low, requant.high, 0, acc_max)
    channels = np.zeros(len(requant.multiplier), _CHANNEL)
    channels["multiplier"], channels["offset"], channels["shift"] = requant.multiplier, requant.offset, requant.shift
    return head.pack() + channels.tobytes()


def requant_of(data: bytes) -> Requant:
    """What requant_bytes gave."""
    size = messages.RequantHead.size()
    if len(data) < size:
        raise Refusal(Status.SHAPE, f"a requantization of {len(data)} bytes: want at least {size}")
    head = messages.RequantHead.unpack(data[:size])
    if len(data) != size + head.channels * _CHANNEL.itemsize:
        raise Refusal(Status.SHAPE, f"a requantization of {len(data)} bytes does not hold {head.channels} channels")
    if head.acc_max > ACC_LIMIT or head.reserved:
        raise InputError(f"a requantization of accumulators to {head.acc_max}: at most 2^31")
    channels = np.frombuffer(data, _CHANNEL, offset=size)
    multiplier, offset, shift = (channels[name].astype(np.int64) for name in ("multiplier", "offset", "shift"))
    return Requant(multiplier, offset, shift, head.low, head.high, head.acc_max)


def weights_bytes(weights: Int8, geometry: Geometry) -> bytes:
    """Region WEIGHTS."""
    return geometry_message(geometry).pack() + np.ascontiguousarray(weights, np.int8).tobytes()


def weights_of(data: bytes) -> tuple[Int8, Geometry]:
    """What weights_bytes gave."""
    size = messages.Geometry.size()
    if len(data) < size:
        raise Refusal(Status.SHAPE, f"weights of {len(data)} bytes: want at least {size}")
    g = geometry_of(messages.Geometry.unpack(data[:size]))
    if g.depth > WINDOW:
        raise InputError(f"weights of {g.depth} products of an output: at most 2^24")
    shape = (g.out_channels, g.in_channels, *g.kernel)
    if len(data) != size + shape[0] * shape[1] * shape[2] * shape[3]:
        raise Refusal(Status.SHAPE, f"weights of {len(data)} bytes do not fill {list(shape)}")
    return np.frombuffer(data, np.int8, offset=size).reshape(shape), g


def code_width(mac: Mac) -> int:
    """Bytes of a code in region CODES."""
    return 1 if mac.adc_bits <= 8 else 2


def code_dtype(mac: Mac) -> np.dtype[np.integer]:
    """Of a code in region CODES."""
    return np.dtype(f"<{'i' if mac.signed else 'u'}{code_width(mac)}")
