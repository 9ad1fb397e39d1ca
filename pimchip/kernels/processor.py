"""Which vector instructions the fused kernel is made of on this processor."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import llvmlite.binding as llvm

from pimchip.errors import InputError, unknown

_NEEDS = {
    "generic": (),
    "avx2": ("avx2",),
    "avx512": ("avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512vnni"),
}


def best_level(most: str) -> str:
    """The best of these that the processor has, and none beyond `most`."""
    names = list(_NEEDS)
    if most not in names:
        raise InputError(f"PIMCHIP_SIMD: {unknown('level', most, names)}")
    has = llvm.get_host_cpu_features()
    return [name for name in names[: names.index(most) + 1] if all(has.get(each) for each in _NEEDS[name])][-1]


LEVEL = best_level(os.environ.get("PIMCHIP_SIMD") or "avx512")
"""generic, what LLVM makes of portable vectors; avx2; or avx512, of Intel since Ice Lake and AMD since Zen 4.

All give the same integers. PIMCHIP_SIMD in the environment makes do with less than the processor has, for tests.
"""
AVX2, AVX512 = LEVEL == "avx2", LEVEL == "avx512"
WORDS = 16 if AVX512 else 8
"""32-bit integers in a vector."""
BYTES = 4 * WORDS
CHAINS = 4 if AVX512 else 1
"""Rows whose noise and conversions go side by side: as many as registers hold."""


def digest(*modules: str) -> str:
    """What modules of this package say, for a kernel's key in numba's cache: numba looks at one file's date only."""
    here = Path(__file__).parent
    chip = [here.parent / "chip" / f"{name}.py" for name in ("adc", "gauss", "philox")]  # constants of the model
    own = [here / f"{name}.py" for name in ("processor", "simd", "instructions", *modules)]
    sources = b"".join(path.read_bytes() for path in (*chip, *own))
    return f"{hashlib.sha256(sources).hexdigest()} {LEVEL}"
