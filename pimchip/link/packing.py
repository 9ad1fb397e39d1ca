"""Messages as bytes: little-endian, packed, a struct within a struct in place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from struct import Struct, error
from typing import Any, ClassVar, Self

from pimchip.errors import ProtocolError


class Message:
    """Base of the generated data classes. layout: their fields' codes of the module struct, or names of such classes."""

    __slots__ = ()
    _parts: ClassVar[tuple[tuple[type[Message] | None, int], ...]]
    _struct: ClassVar[Struct]

    def __init_subclass__(cls, layout: str = "", **named: Any) -> None:
        super().__init_subclass__(**named)
        if not layout:  # dataclass with slots makes each class a second time, without its keywords
            return
        parts: list[tuple[type[Message] | None, int]] = []
        codes = ""
        for code in layout.split():
            inner = getattr(sys.modules[cls.__module__], code) if code[1:2].islower() and code[0].isalpha() else None
            if inner is None:
                count = 1 if code.endswith("s") else int(code[:-1] or 1)
                parts.append((None, count))
                codes += code
            else:
                parts.append((inner, 0))
                codes += inner._struct.format[1:]
        cls._parts, cls._struct = tuple(parts), Struct("<" + codes)

    @classmethod
    def size(cls) -> int:
        """Bytes."""
        return cls._struct.size

    def pack(self) -> bytes:
        """As bytes. ProtocolError where a value does not fit its field."""
        try:
            return self._struct.pack(*self._flat())
        except error as wrong:
            raise ProtocolError(f"{self}: {wrong}") from None

    def _flat(self) -> Iterator[Any]:
        for (inner, count), name in zip(self._parts, self.__match_args__, strict=True):  # type: ignore[attr-defined]
            value = getattr(self, name)
            if inner is not None:
                yield from value._flat()
            elif count > 1:
                yield from value
            else:
                yield value

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Self:
        """From bytes. ProtocolError where they are too few or too many."""
        if len(data) != cls._struct.size:
            raise ProtocolError(f"{cls.__name__} takes {cls._struct.size} bytes, got {len(data)}")
        return cls._of(iter(cls._struct.unpack(data)))

    @classmethod
    def _of(cls, values: Iterator[Any]) -> Self:
        fields: list[Any] = []
        for inner, count in cls._parts:
            if inner is not None:
                fields.append(inner._of(values))
            elif count > 1:
                fields.append(tuple(next(values) for _ in range(count)))
            else:
                fields.append(next(values))
        return cls(*fields)
