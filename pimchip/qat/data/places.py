"""Where data sets are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from pimchip.errors import InputError


def default_data_dir() -> Path:
    """Where downloaded data sets live unless the caller says otherwise: $PIMCHIP_DATA, else ~/.cache/pimchip/data."""
    configured = os.environ.get("PIMCHIP_DATA")
    return Path(configured) if configured else Path.home() / ".cache" / "pimchip" / "data"


def places(data_dir: Path | None, folder: str) -> tuple[Path, ...]:
    """Return `folder` inside the data directory and the directory itself, in the order they are searched.

    InputError where a directory was named and is none: a typing error must not end in other data.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise InputError(f"data directory {data_dir}: no such directory")
    root = data_dir if data_dir is not None else default_data_dir()
    return root / folder, root
