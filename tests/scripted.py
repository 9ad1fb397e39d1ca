"""A VISA resource that follows a script: exact bytes in strict order, and nothing else."""

from __future__ import annotations

from pimchip.instruments.visa import Line


class ScriptedResource:
    """Script: lines "> what is sent" and "< what is answered"; "!" stands for no answer in time."""

    def __init__(self, script: str, terminator: bytes = b"\n") -> None:
        self._lines = [line.strip() for line in script.strip().splitlines()]
        self._terminator = terminator
        self.closed = 0

    def write_raw(self, message: bytes) -> int:
        wanted = self._next(">")
        assert message == wanted.encode("ascii") + self._terminator, f"sent {message!r}, the script has {wanted!r}"
        return len(message)

    def read_raw(self) -> bytes:
        if self._lines and self._lines[0] == "!":
            self._lines.pop(0)
            raise TimeoutError("VI_ERROR_TMO (-1073807339): Timeout expired before operation completed.")
        return self._next("<").encode("ascii") + self._terminator

    def close(self) -> None:
        self.closed += 1

    def _next(self, kind: str) -> str:
        assert self._lines, "the script is over"
        line = self._lines.pop(0)
        assert line.startswith(kind), f"a {kind} was wanted, the script has {line!r}"
        return line[1:].strip()

    def finished(self) -> bool:
        return not self._lines


def scripted(script: str, terminator: str = "\n") -> tuple[Line, ScriptedResource]:
    """A line over a script, named "psu"."""
    resource = ScriptedResource(script, terminator.encode("ascii"))
    return Line(resource, "psu", "TEST::INSTR", terminator), resource
