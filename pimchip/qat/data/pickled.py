"""The pickles of CIFAR's Python version, read without pickle.

A pickle is a program for a small stack machine. Two of its instructions can do anything at all: one looks up a name
in any module, one calls it. This machine has the instructions that dictionaries, lists, strings, integers and NumPy's
byte arrays need, in every protocol; it never imports, and "calls" four known names by doing the plain thing itself.
A file that names another is refused. Work and memory are bounded by the length of the file.

Source for the instructions: CPython's Lib/pickletools.py; for the four names: numpy.ndarray.__reduce__ of NumPy 1
and 2 and copyreg of CPython (bytes in protocols below 3).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pimchip.errors import InputError

MOST_STEPS = 2_000_000  # the longest official file takes a third of a million
_PROTOCOL = 5
_STOP = ord(".")
_T = TypeVar("_T")


class _Name(Enum):
    RECONSTRUCT = "_reconstruct"
    FROMBUFFER = "_frombuffer"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _Name.FROMBUFFER,
    ("numpy._core.numeric", "_frombuffer"): _Name.FROMBUFFER,
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
}


@dataclass
class _Array:
    """An array of bytes; values is None between its creation and its BUILD."""

    values: NDArray[np.uint8] | None = None


class _ByteType:
    """The dtype uint8, the only one there is here."""


class _Mark:
    """Where a variable number of operands starts on the stack."""


_MARK = _Mark()
_BYTE_TYPE = _ByteType()


def loads(raw: bytes, source: str) -> dict[str, object]:
    """Return the dictionary in a pickle, its keys as str; arrays come as uint8, read-only, strings as they are stored.

    source names the file in messages. InputError on whatever is no pickle of a dictionary of such things: truncated
    or damaged files, other names, other dtypes, instructions those files have no use for, bytes after the end.
    """
    top = _Machine(raw, source).run()
    if type(top) is not dict:
        raise InputError(f"{source}: holds a {type(top).__name__}, wanted a dictionary")
    found: dict[str, object] = {}
    for key, value in top.items():
        if isinstance(value, _Array):
            value = value.values
        found[key.decode("latin-1") if isinstance(key, bytes) else str(key)] = value
    return found


class _Machine:
    def __init__(self, raw: bytes, source: str) -> None:
        self._raw = raw
        self._source = source
        self._at = 0
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._encodable = 2 * len(raw)  # characters; a text kept in the memo could be encoded again and again

    def run(self) -> object:
        if not self._raw:
            raise self._wrong("empty file")
        for _ in range(MOST_STEPS):
            code = self._take(1)[0]
            if code == _STOP:
                top = self._pop(object)
                if self._stack or self._at != len(self._raw):
                    raise self._wrong("something is left over at its end")
                return top
            step = _STEPS.get(code)
            if step is None:
                raise self._wrong(f"instruction 0x{code:02x}, which no CIFAR file has; refused")
            step(self)
        raise self._wrong(f"more than {MOST_STEPS} instructions; no CIFAR file has")

    def _wrong(self, what: str) -> InputError:
        return InputError(f"{self._source}: not a CIFAR pickle: {what} (at byte {self._at} of {len(self._raw)})")

    # operands in the file

    def _take(self, count: int) -> bytes:
        piece = self._raw[self._at : self._at + count]
        if len(piece) < count:
            raise self._wrong(f"truncated: wanted {count} more bytes, has {len(piece)}")
        self._at += count
        return piece

    def _number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        assert isinstance(value, int)
        return value

    def _line(self) -> bytes:
        end = self._raw.find(b"\n", self._at)
        if end < 0:
            raise self._wrong("truncated: a line without an end")
        line = self._take(end - self._at)
        self._at += 1
        return line

    def _decimal(self, line: bytes) -> int:
        try:
            return int(line)
        except ValueError:
            raise self._wrong("an integer that is none") from None

    def _text(self, piece: bytes, encoding: str) -> str:
        try:
            return piece.decode(encoding)
        except ValueError:
            raise self._wrong(f"a text that is no {encoding}") from None

    # the stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _pop(self, kind: type[_T]) -> _T:
        if not self._stack:
            raise self._wrong(f"wanted a {kind.__name__} on the stack, which is empty")
        value = self._stack.pop()
        if value is _MARK or not isinstance(value, kind):
            raise self._wrong(f"wanted a {kind.__name__} on the stack, found a {type(value).__name__}")
        return value

    def _since_mark(self) -> list[object]:
        values: list[object] = []
        while self._stack:
            value = self._stack.pop()
            if value is _MARK:
                return values[::-1]
            values.append(value)
        raise self._wrong("operands without a mark before them")

    def _top(self, kind: type[_T]) -> _T:
        value = self._pop(kind)
        self._push(value)
        return value

    # instructions

    def protocol(self) -> None:
        version = self._number("<B")
        if version > _PROTOCOL:
            raise self._wrong(f"pickle protocol {version}; known up to {_PROTOCOL}")

    def frame(self) -> None:
        self._take(8)  # its length; every read is checked anyway

    def integer_line(self) -> None:
        line = self._line()
        self._push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else self._decimal(line))

    def long_line(self) -> None:
        self._push(self._decimal(self._line().removesuffix(b"L")))

    def long(self) -> None:
        self._push(int.from_bytes(self._take(self._number("<B")), "little", signed=True))

    def string_line(self) -> None:
        line = self._line()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1] or b"\\" in line:
            raise self._wrong("a string that is not plainly quoted")
        self._push(line[1:-1])

    def tuple_of(self, count: int) -> None:
        self._push(tuple([self._pop(object) for _ in range(count)][::-1]))

    def append(self) -> None:
        value = self._pop(object)
        self._top(list).append(value)

    def extend(self) -> None:
        values = self._since_mark()
        self._top(list).extend(values)

    def set_item(self) -> None:
        value, key = self._pop(object), self._pop(object)
        self._set(self._top(dict), [key, value])

    def set_items(self) -> None:
        values = self._since_mark()
        self._set(self._top(dict), values)

    def dictionary(self) -> None:
        found: dict[object, object] = {}
        self._set(found, self._since_mark())
        self._push(found)

    def _set(self, target: dict[object, object], values: list[object]) -> None:
        if len(values) % 2:
            raise self._wrong("a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, bytes)):
                raise self._wrong(f"a dictionary key that is a {type(key).__name__}")
            target[key] = value

    def put(self, place: int) -> None:
        self._memo[place] = self._top(object)

    def get(self, place: int) -> None:
        if place not in self._memo:
            raise self._wrong(f"memo {place} was never filled")
        self._push(self._memo[place])

    def global_line(self) -> None:
        module, name = self._line(), self._line()
        self._look_up(self._text(module, "utf-8"), self._text(name, "utf-8"))

    def global_stack(self) -> None:
        name, module = self._pop(str), self._pop(str)
        self._look_up(module, name)

    def _look_up(self, module: str, name: str) -> None:
        known = _NAMES.get((module, name))
        if known is None:
            named = ascii(f"{module}.{name}"[:80])
            raise self._wrong(f"it names {named}, which no CIFAR file does; refused, nothing was run")
        self._push(known)

    def reduce(self) -> None:
        arguments, function = self._pop(tuple), self._pop(object)
        match function, arguments:
            case _Name.ENCODE, (str(text), "latin1" | "latin-1"):
                self._encodable -= len(text)
                if self._encodable < 0:
                    raise self._wrong("it encodes more text than it has")
                try:
                    self._push(text.encode("latin-1"))
                except ValueError:
                    raise self._wrong("a text that is no latin-1") from None
            case _Name.DTYPE, ("u1" | b"u1", *_):
                self._push(_BYTE_TYPE)
            case _Name.DTYPE, (str() | bytes() as dtype, *_):
                raise self._wrong(f"an array of dtype {ascii(dtype[:20])}, wanted u1")
            case _Name.RECONSTRUCT, (_Name.NDARRAY, (int(),), str() | bytes()):
                self._push(_Array())
            case _Name.FROMBUFFER, (bytes(buffer), _ByteType(), tuple(shape), "C" | "F" as order):
                self._push(_Array(self._array(buffer, shape, order == "F")))
            case _:
                called = function.value if isinstance(function, _Name) else type(function).__name__
                raise self._wrong(f"a call of {called} with arguments no CIFAR file gives it; refused")

    def build(self) -> None:
        state = self._pop(tuple)
        target = self._top(object)
        match target, state:
            case _ByteType(), _:
                pass  # byte order and alignment say nothing about single bytes
            case _Array(values=None) as array, (int(), tuple(shape), _ByteType(), int(fortran), bytes(buffer)):
                array.values = self._array(buffer, shape, bool(fortran))
            case _:
                raise self._wrong(f"a state for a {type(target).__name__} that no CIFAR file gives it; refused")

    def _array(self, buffer: bytes, shape: tuple[object, ...], fortran: bool) -> NDArray[np.uint8]:
        axes = [axis for axis in shape if isinstance(axis, int) and 0 <= axis < 1 << 40]
        if len(axes) != len(shape) or not 1 <= len(axes) <= 4 or math.prod(axes) != len(buffer):
            raise self._wrong(f"an array whose shape does not fit its {len(buffer)} bytes")
        return np.frombuffer(buffer, np.uint8).reshape(axes, order="F" if fortran else "C")


_STEPS: dict[int, Callable[[_Machine], None]] = {
    ord(code): step
    for code, step in {
        "\x80": _Machine.protocol,
        "\x95": _Machine.frame,
        "(": lambda m: m._push(_MARK),
        "N": lambda m: m._push(None),
        "\x88": lambda m: m._push(True),
        "\x89": lambda m: m._push(False),
        "K": lambda m: m._push(m._number("<B")),
        "M": lambda m: m._push(m._number("<H")),
        "J": lambda m: m._push(m._number("<i")),
        "I": _Machine.integer_line,
        "L": _Machine.long_line,
        "\x8a": _Machine.long,
        "S": _Machine.string_line,
        "U": lambda m: m._push(m._take(m._number("<B"))),
        "T": lambda m: m._push(m._take(m._number("<I"))),
        "C": lambda m: m._push(m._take(m._number("<B"))),
        "B": lambda m: m._push(m._take(m._number("<I"))),
        "\x8e": lambda m: m._push(m._take(m._number("<Q"))),
        "\x96": lambda m: m._push(m._take(m._number("<Q"))),  # bytearray; nothing here changes it
        "V": lambda m: m._push(m._text(m._line(), "raw-unicode-escape")),
        "\x8c": lambda m: m._push(m._text(m._take(m._number("<B")), "utf-8")),
        "X": lambda m: m._push(m._text(m._take(m._number("<I")), "utf-8")),
        "\x8d": lambda m: m._push(m._text(m._take(m._number("<Q")), "utf-8")),
        ")": lambda m: m._push(()),
        "\x85": lambda m: m.tuple_of(1),
        "\x86": lambda m: m.tuple_of(2),
        "\x87": lambda m: m.tuple_of(3),
        "t": lambda m: m._push(tuple(m._since_mark())),
        "]": lambda m: m._push([]),
        "l": lambda m: m._push(m._since_mark()),
        "a": _Machine.append,
        "e": _Machine.extend,
        "}": lambda m: m._push({}),
        "d": _Machine.dictionary,
        "s": _Machine.set_item,
        "u": _Machine.set_items,
        "q": lambda m: m.put(m._number("<B")),
        "r": lambda m: m.put(m._number("<I")),
        "p": lambda m: m.put(m._decimal(m._line())),
        "\x94": lambda m: m.put(len(m._memo)),
        "h": lambda m: m.get(m._number("<B")),
        "j": lambda m: m.get(m._number("<I")),
        "g": lambda m: m.get(m._decimal(m._line())),
        "c": _Machine.global_line,
        "\x93": _Machine.global_stack,
        "R": _Machine.reduce,
        "b": _Machine.build,
    }.items()
}
