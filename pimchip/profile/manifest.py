"""The text of manifest.toml: written plainly, read with tomllib, closed by a checksum of everything above it."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from pimchip.errors import InputError

_CHECKSUM = "manifest_sha256"


def to_toml(data: Mapping[str, Any]) -> str:
    """Plain values as TOML: strings, booleans, integers, floats, lists of them, tables, and lists of tables."""
    lines: list[str] = []
    _table(data, "", lines)
    return "\n".join(lines).strip() + "\n"


def without_nothing(value: Any) -> Any:
    """Plain values without what is None, which TOML cannot say, in mappings and lists at any depth."""
    if isinstance(value, Mapping):
        return {name: without_nothing(each) for name, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [without_nothing(each) for each in value if each is not None]
    return value


def seal(text: str) -> str:
    """The text with its checksum as a closing comment, which no key can follow by accident."""
    return f"{text}# {_CHECKSUM} = {hashlib.sha256(text.encode()).hexdigest()}\n"


def unseal(raw: bytes) -> dict[str, Any]:
    """The values of a sealed text. Raises InputError, saying what is wrong, if it was cut short or changed."""
    body, _, last = raw.removesuffix(b"\n").rpartition(b"\n")
    body += b"\n"
    mark = f"# {_CHECKSUM} = ".encode()
    if not raw.endswith(b"\n") or not last.startswith(mark):
        raise InputError("is cut short or was changed")
    if last.removeprefix(mark) != hashlib.sha256(body).hexdigest().encode():
        raise InputError("was changed after it was written")
    try:
        data = tomllib.loads(body.decode())
        _only_plain("manifest", data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no TOML: {error}") from None
    return data


def _only_plain(key: str, value: object) -> None:
    """Raise InputError where a value holds a date or time of TOML's own, which no manifest writes."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            _only_plain(name, each)
    elif isinstance(value, list):
        for each in value:
            _only_plain(key, each)
    elif not isinstance(value, str | int | float):
        raise InputError(f"{key} is a {type(value).__name__}, and a manifest holds plain values")


def _table(data: Mapping[str, Any], prefix: str, lines: list[str]) -> None:
    # Values come before tables: in TOML what follows a table's header belongs to that table.
    for key, value in data.items():
        if not isinstance(value, Mapping) and not _is_tables(value):
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in data.items():
        name = prefix + _key(key)
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]"]
            _table(value, name + ".", lines)
        elif _is_tables(value):
            for item in value:
                lines += ["", f"[[{name}]]"]
                _table(item, name + ".", lines)


def _is_tables(value: object) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(v, Mapping) for v in value)
    )


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if plain else _text(key)


def _text(value: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    raise InputError(f"a manifest holds plain values, not {type(value).__name__}")
