"""The file under model.pim and *.deployed: safetensors with a JSON manifest, sealed by hashes.

Nothing in it can run. The header is bounded and checked by safetensors; the manifest carries a SHA-256 of itself and
of every tensor's bytes, so truncation and edits by hand are told apart from a good file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pimchip.errors import InputError
from pimchip.files import replacing

VERSIONS = (1, 2, 3, 4, 5, 6)
"""Read; 2 has groups and dilation of layers in the array, 3 corrections of codes, 4 steps of the host and integers with a zero
of their own, 5 products of two maps by elements and masks, 6 copies of layers."""
_KEY = "pimchip"


def write_container(
    path: Path, kind: str, manifest: dict[str, Any], tensors: dict[str, NDArray[Any]], version: int = 1
) -> None:
    """Write through a temporary file and a rename. version: the first that can hold it."""
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    body = {"kind": kind, "version": version, "manifest": manifest, "tensors": _digest(ordered)}
    text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    # One entry, its hash before it: of several safetensors would shuffle the order, and equal programs differ in bytes.
    content = save(ordered, {_KEY: f"{hashlib.sha256(text.encode()).hexdigest()} {text}"})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def read_container(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """(manifest, tensors) of a file of that kind; InputError names the file, what is wrong and the mend."""
    if not path.is_file():
        raise InputError(f"{kind} file {path} is not there")
    damaged = f"{kind} file {path} is damaged or was edited; write it again"
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise InputError(f"{path} is no {kind} file of pimchip")
            seal, _, text = metadata[_KEY].partition(" ")
            if hashlib.sha256(text.encode()).hexdigest() != seal:
                raise InputError(damaged)
            body = json.loads(text)
            if body.get("kind") != kind:
                mend = (
                    f": `pimchip deploy {path}` makes one"
                    if (body.get("kind"), kind) == ("program", "deployed")
                    else ""
                )
                raise InputError(f"{path} is a {body.get('kind')} file; a {kind} file is wanted here{mend}")
            if body.get("version") not in VERSIONS:
                raise InputError(
                    f"{kind} file {path} has version {body.get('version')!r}; this pimchip reads up to {VERSIONS[-1]}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if is_zipfile(path):
            made = {"program": "pimchip compile", "deployed": "pimchip deploy"}.get(kind, "pimchip")
            damaged = (
                f"{path} is a model.pt, or another zip file; a {kind} file is wanted here: `{made} {path}` makes one"
            )
        raise InputError(damaged) from None
    if body.get("tensors") != _digest(tensors) or not isinstance(body.get("manifest"), dict):
        raise InputError(damaged)
    return body["manifest"], tensors


def _digest(tensors: dict[str, NDArray[Any]]) -> dict[str, str]:
    """SHA-256 by tensor, over type, shape and bytes."""
    return {
        name: hashlib.sha256(f"{t.dtype.str}{t.shape}".encode() + np.ascontiguousarray(t).tobytes()).hexdigest()
        for name, t in sorted(tensors.items())
    }
