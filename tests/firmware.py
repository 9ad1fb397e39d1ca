"""The C firmware from Python: its builds, and its parts called through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from ctypes import POINTER, Structure, c_int32, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent.parent / "firmware_protocol" / "firmware"
SCHEMES = ("native", "differential", "bit_serial")
POINT = ("scheme", "rows", "weight_bits", "act_bits", "dac_bits", "adc_bits", "range_divisor")


def missing(*tools: str) -> str:
    """Why a test that needs these programs cannot run; empty where it can."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def make(build: Path, *targets: str) -> None:
    """Build targets of the firmware's Makefile into a folder; the compiler's words are in the error."""
    command = ["make", "-C", str(FOLDER), f"BUILD={build}", *targets]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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


def load_shim(build: Path) -> Any:
    """The library's parts with flat arguments."""
    make(build, "shim")
    shim = ctypes.CDLL(str(build / "libpim-shim.so"))
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


def at(array: NDArray[np.generic] | None) -> int | None:
    """Address of an array's first entry, for C."""
    return None if array is None else array.ctypes.data


def point_words(case: dict[str, Any]) -> NDArray[np.uint32]:
    """The operating point of a case as the firmware takes it: uint32 [7]."""
    return np.array([SCHEMES.index(case["scheme"]), *[case[name] for name in POINT[1:]]], np.uint32)
