"""The C firmware from Python: its builds, and its parts called through ctypes."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from ctypes import POINTER, Structure, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pimchip.chip import Geometry, Mac, PimLayer, Requant, Run, Tile
from pimchip.chip.correction import Correction

FOLDER = Path(__file__).resolve().parent.parent / "firmware_protocol" / "firmware"
SCHEMES = ("native", "differential", "bit_serial")
POINT = ("scheme", "rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")


def missing(*tools: str) -> str:
    """Why a test that needs these programs cannot run; empty where it can."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def made(factory: pytest.TempPathFactory, target: str, name: str, *options: str) -> Path:
    """What a target of the firmware's Makefile builds; once for all of pytest's workers. The compiler's words are in the error."""
    base = factory.getbasetemp()
    build = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "firmware"
    build.mkdir(exist_ok=True)
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", "-C", str(FOLDER), f"BUILD={build}", *options, target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return build / name


class ShimDie(Structure):
    _fields_ = [
        ("transfer", c_void_p),
        ("sigma", c_void_p),
        ("slow", c_void_p),
        ("code_map", c_void_p),
        ("converters", c_uint32),
        ("sigma_by_sum", c_uint32),
        ("octaves", c_uint32),
        ("silent", c_uint32),
        ("seed", c_uint64),
        ("epoch", c_uint32),
    ]


class ShimLayer(Structure):
    _fields_ = [
        ("point", c_void_p),
        ("cells", c_void_p),
        ("errors", c_void_p),
        ("adc", c_void_p),
        ("macro", c_void_p),
        ("first_vector", c_uint64),
        ("depth", c_uint32),
        ("columns", c_uint32),
        ("q", c_uint32),
    ]


def load_shim(library: Path) -> Any:
    """The library's parts with flat arguments."""
    shim = ctypes.CDLL(str(library))
    shim.shim_word.argtypes = [c_uint64, c_uint32, c_uint32, c_uint32, c_uint64]
    shim.shim_slow_sum.argtypes = [c_uint64, c_uint32, c_uint32, c_uint32, c_uint64]
    shim.shim_gauss.argtypes = [c_uint32]
    shim.shim_crc32.argtypes = [c_uint32, ctypes.c_char_p, ctypes.c_size_t]
    shim.shim_layer_run.argtypes = [POINTER(ShimDie), POINTER(ShimLayer), *[c_void_p] * 1, c_uint32, *[c_void_p] * 3]
    for name in ("shim_word", "shim_crc32", "shim_point", "shim_layer_run"):
        getattr(shim, name).restype = c_uint32
    for name in ("shim_gauss", "shim_slow_sum"):
        getattr(shim, name).restype = c_int32
    return shim


class CRequant(Structure):
    _fields_ = [
        ("channels", c_uint32),
        ("entries", c_void_p),
        ("low", c_int32),
        ("high", c_int32),
        ("acc_max", c_uint64),
    ]


class CAddition(Structure):
    _fields_ = [("factor", c_int64 * 2), ("shift", c_uint32), ("low", c_int32), ("high", c_int32)]


class CCorrection(Structure):
    _fields_ = [("converters", c_uint32), ("fraction_bits", c_uint32), ("values", c_void_p)]


class Refused(Exception):
    """The C board's status, by name."""


STATUS = (
    "ok",
    "bad argument",
    "bad shape",
    "bad tile",
    "bad point",
    "bad cells",
    "bad input",
    "beyond",
    "no buffer",
    "no memory",
    "overflow",
    "not able",
    "too much",
    "bad correction",
)


class CBoard:
    """The C board behind the calls of VirtualBoard; one at a time in a process."""

    def __init__(self, shim: Any, image: bytes, memory: int = 1 << 24) -> None:
        self._shim = shim
        # ctypes aligns buffers of 64-bit words.
        self._image = (c_uint64 * (len(image) // 8 + 1))()
        ctypes.memmove(self._image, image, len(image))
        self._arena = (c_uint64 * (memory // 8))()
        status = shim.shim_open(self._image, c_size_t(len(image)), self._arena, c_size_t(memory))
        if status:
            raise Refused(f"die {status}")

    def _call(self, name: str, *args: Any) -> None:
        function = getattr(self._shim, f"shim_{name}")
        function.restype = c_uint32
        status = function(*args)
        if status:
            raise Refused(STATUS[status])

    def write_cells(self, tile: Tile, cells: NDArray[np.int8], full: int = 0) -> None:
        self._call("write", _words(astuple(tile)), pointer(np.ascontiguousarray(cells, np.int8)), full)

    def read_cells(self, tile: Tile) -> NDArray[np.int8]:
        out = np.zeros((tile.rows, tile.columns), np.int8)
        self._call("read", _words(astuple(tile)), pointer(out))
        return out

    def trim(self, adc: int, code: int) -> None:
        self._call("trim", adc, code)

    def convert(self, tile: Tile, x: NDArray[np.integer], repeats: int, mac: Mac, run: Run) -> NDArray[np.int32]:
        vectors = np.tile(x.astype(np.uint8), (repeats, 1))
        out = np.zeros((repeats, len(x), tile.columns), np.int32)
        where = _words(astuple(tile)), _words(mac_words(mac))
        self._call(
            "convert",
            *where,
            pointer(vectors),
            len(vectors),
            c_uint32(run.epoch),
            c_uint64(run.first_image),
            pointer(out),
        )
        return out

    def upload(self, buffer: int, data: NDArray[np.integer]) -> None:
        small = data.size > 0 and data.min() >= 0 and data.max() <= 255
        self._call("upload", buffer, _words(data.shape), pointer(np.ascontiguousarray(data, np.int32)), bool(small))

    def download(self, buffer: int) -> NDArray[np.int32]:
        shape = np.zeros(4, np.uint32)
        self._call("download", buffer, pointer(shape), None)
        out = np.zeros(shape, np.int32)
        self._call("download", buffer, pointer(shape), pointer(out))
        return out

    def free(self, buffer: int) -> None:
        self._shim.shim_free(buffer)

    def conv(self, layer: PimLayer, src: int, dst: int, requant: Requant | None, accumulate: bool, run: Run) -> None:
        ordered = sorted(layer.placements, key=lambda p: p.copy)
        placed = np.array([(*astuple(p.tile), p.group, p.first_column) for p in ordered], "<u4")
        counts = np.bincount([p.copy for p in ordered]).astype("<u4") if layer.copies > 1 else None
        copies = None if counts is None else pointer(counts), layer.copies
        point_words, form = _words(mac_words(layer.mac)), _words(geometry_words(layer.geometry))
        layer_words = point_words, form, pointer(placed), len(placed), *copies
        rest = accumulate, c_uint32(run.epoch), c_uint64(run.first_image)
        with_requant, kept = _requant(requant)
        with_correction, table = _correction(layer.correction)
        self._call("conv", *layer_words, with_correction, _words((src, dst)), with_requant, *rest)
        del kept, table

    def digital(
        self, weights: NDArray[np.int8], geometry: Geometry, src: int, dst: int, requant: Requant | None
    ) -> None:
        w = np.ascontiguousarray(weights)
        with_requant, kept = _requant(requant)
        words = _words(geometry_words(geometry)), _words((src, dst))
        self._call("digital", pointer(w), c_size_t(w.size), *words, with_requant)
        del kept

    def requantize(self, src: int, dst: int, requant: Requant) -> None:
        with_requant, kept = _requant(requant)
        self._call("requantize", _words((src, dst)), with_requant)
        del kept

    def add(self, a: int, b: int, dst: int, factors: tuple[int, int], shift: int, low: int, high: int) -> None:
        how = CAddition((c_int64 * 2)(*factors), shift, low, high)
        self._call("add", _words((a, b, dst)), ctypes.byref(how))

    def pool(self, src: int, dst: int, kind: str, *window: tuple[int, int]) -> None:
        self._call("pool", _words((src, dst)), kind == "max", _words([v for pair in window for v in pair]))

    def stats(self, buffer: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        shape = np.zeros(4, np.uint32)
        self._call("download", buffer, pointer(shape), None)
        total, squares = np.zeros(shape[1], np.int64), np.zeros(shape[1], np.int64)
        self._call("stats", buffer, pointer(total), pointer(squares))
        return int(shape[0] * shape[2] * shape[3]), total, squares

    @property
    def counters(self) -> list[int]:
        out = np.zeros(8, np.uint64)
        self._shim.shim_counters(pointer(out))
        return [int(v) for v in out]


def pointer(array: NDArray[np.generic]) -> c_void_p:
    """An array for C, which keeps it alive during the call."""
    return array.ctypes.data_as(c_void_p)


def _words(values: Any) -> c_void_p:
    return pointer(np.array(list(values), np.uint32))


def _requant(requant: Requant | None) -> tuple[Any, Any]:
    """A requantization for C, and what must outlive the call."""
    if requant is None:
        return None, None
    entries = np.stack([requant.multiplier, requant.offset, requant.shift], axis=1).astype("<i8")
    held = CRequant(len(entries), at(entries), requant.low, requant.high, requant.acc_max)
    return ctypes.byref(held), (held, entries)


def _correction(correction: Correction | None) -> tuple[Any, Any]:
    """A correction for C, and what must outlive the call."""
    if correction is None:
        return None, None
    values = np.ascontiguousarray(correction.values, "<i2")
    held = CCorrection(len(values), correction.fraction_bits, at(values))
    return ctypes.byref(held), (held, values)


def mac_words(mac: Mac) -> tuple[int, ...]:
    """An operating point as the firmware takes it."""
    return (SCHEMES.index(mac.scheme), *[getattr(mac, name) for name in POINT[1:]])


def geometry_words(g: Geometry) -> tuple[int, ...]:
    """A convolution's arithmetic as the firmware takes it."""
    return (g.in_channels, g.out_channels, *g.kernel, *g.stride, *g.padding, *g.dilation)


def at(array: NDArray[np.generic] | None) -> int | None:
    """Address of an array's first entry, for C."""
    return None if array is None else array.ctypes.data


def point_words(case: dict[str, Any]) -> NDArray[np.uint32]:
    """The operating point of a case as the firmware takes it: uint32 [7]."""
    return np.array([SCHEMES.index(case["scheme"]), *[case[name] for name in POINT[1:]]], np.uint32)
