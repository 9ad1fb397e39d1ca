"""The part of a device URL behind the question mark."""

from __future__ import annotations

from urllib.parse import parse_qsl

from pimchip.errors import InputError, unknown
from pimchip.link.token import without_token


def options_of(url: str, query: str, known: tuple[str, ...]) -> dict[str, str]:
    """Values by name. InputError for one that is not among the known, or is given twice."""
    shown = without_token(url)
    try:
        # A plus is a plus, as in paths, not a space as in web forms.
        pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        shown = url.partition("?")[0]  # without what may be a token, as nobody can tell
        raise InputError(f"device {shown!r}: what follows its question mark is not name=value&name=value") from None
    options = dict(pairs)
    for name in options:
        if name not in known:
            raise InputError(f"device {shown!r}: {unknown('option', name, known)}")
    if len(options) != len(pairs):
        raise InputError(f"device {shown!r}: an option is given twice")
    return options


def integer(url: str, options: dict[str, str], name: str, limit: int) -> int:
    """An option that is a whole number below `limit`; 0 where it is not given."""
    value = options.get(name, "0")
    if not (value.isascii() and value.isdigit()) or len(value) > 20 or int(value) >= limit:
        raise InputError(f"device {without_token(url)!r}: {name} = {value!r} is no whole number from 0 to {limit - 1}")
    return int(value)


def number(url: str, options: dict[str, str], name: str, unit: str, default: float, low: float, high: float) -> float:
    """An option that is a number from low to high; the default where it is not given."""
    text = options.get(name)
    if text is None:
        return float(default)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise InputError(
            f"device {without_token(url)!r}: {name} = {text!r} is no number of {unit} from {low:g} to {high:g}"
        )
    return value
