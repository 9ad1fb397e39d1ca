"""Write what follows from firmware_protocol/protocol.toml: Python constants and messages, a C header, SPEC.md's tables.

python tools/generate_protocol.py [--check]      --check: fail if a file differs from what would be written
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "firmware_protocol" / "protocol.toml"
CONSTANTS = ROOT / "pimchip" / "link" / "constants.py"
MESSAGES = ROOT / "pimchip" / "link" / "messages.py"
HEADER = ROOT / "firmware_protocol" / "firmware" / "include" / "pimp_protocol.h"
SPEC = ROOT / "firmware_protocol" / "SPEC.md"

SCALARS = {"u8": ("B", 1), "u16": ("H", 2), "u32": ("I", 4), "u64": ("Q", 8), "i32": ("i", 4), "i64": ("q", 8)}
NOTE = "Written by tools/generate_protocol.py from protocol.toml; do not edit."


def load() -> dict[str, Any]:
    """The source, with offsets and sizes of all structs."""
    data = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    sizes: dict[str, int] = {}
    for name, struct in data["struct"].items():
        offset = 0
        for field in struct["fields"]:
            base, count = parse(field["type"])
            field |= {"base": base, "count": count, "offset": offset}
            one = 1 if base == "char" else SCALARS[base][1] if base in SCALARS else sizes[base]
            field["size"] = one * (count or 1)
            offset += field["size"]
        sizes[name] = struct["size"] = offset
    check(data)
    return data


def check(data: dict[str, Any]) -> None:
    """What the rest relies on."""
    structs, limits = data["struct"], {name: entry["value"] for name, entry in data["limits"].items()}
    assert structs["Header"]["size"] == limits["HEADER_SIZE"]
    assert limits["MAX_FRAME"] == limits["HEADER_SIZE"] + limits["MAX_PAYLOAD"] + limits["CRC_SIZE"]
    assert limits["MAX_ENCODED"] == limits["MAX_FRAME"] + -(-limits["MAX_FRAME"] // 254)
    assert limits["MAX_CHUNKS"] // 8 <= limits["MAX_PAYLOAD"]
    for table in ("kinds", "flags", "status_classes", "errors", "regions", "sources", "ops"):
        values = [entry["value"] for entry in data[table].values()]
        assert len(set(values)) == len(values), f"{table}: a value is there twice"
    for name, op in data["ops"].items():
        for side in ("request", "reply"):
            assert op[side] in ("", "bytes") or op[side] in structs, f"{name}: no struct {op[side]}"
        if op["cached"] and op["reply"] not in ("", "bytes"):
            assert structs[op["reply"]]["size"] <= limits["MAX_REPLY"], name


def parse(text: str) -> tuple[str, int]:
    """Base type and how many, 0 for one that is no array."""
    found = re.fullmatch(r"(\w+?)(?:\[(\d+)\])?", text)
    assert found, text
    return found[1], int(found[2] or 0)


def quoted(value: int) -> str:
    return hex(value) if value > 0xFFFF else str(value)


# ------------------------------------------------------------------------------------------------------------- Python


def constants(data: dict[str, Any]) -> str:
    lines = [
        f'"""Numbers of the protocol between host and board. {NOTE}"""',
        "",
        "from __future__ import annotations",
        "",
    ]
    lines += ["from enum import IntEnum, IntFlag", "from typing import NamedTuple", ""]
    lines += [f"VERSION = {data['protocol']['version']}"]
    for name, entry in (data["limits"] | data["timers"]).items():
        lines += [f"{name} = {quoted(entry['value'])}", f'"""{sentence(entry["meaning"])}"""']
    for title, table, base, meaning in (
        ("Kind", "kinds", "IntEnum", "Kinds of frames."),
        ("Flag", "flags", "IntFlag", "Flags of a frame."),
        ("StatusClass", "status_classes", "IntFlag", "High byte of a status."),
        ("Region", "regions", "IntEnum", "What transfers write and READ reads."),
        ("Source", "sources", "IntEnum", "Sources of streams."),
        ("Op", "ops", "IntEnum", "What a request asks for."),
    ):
        lines += ["", "", f"class {title}({base}):", f'    """{meaning}"""', ""]
        for name, entry in data[table].items():
            lines += [f"    {name} = {entry['value']:#x}", f'    """{sentence(entry["meaning"])}"""']
    lines += ["", "", "class Status(IntEnum):", '    """Statuses of a reply: class << 8 | code."""', "", "    OK = 0"]
    for name, entry in data["errors"].items():
        lines += [f"    {name} = {entry['value']:#06x}", f'    """{sentence(entry["meaning"])}"""']
    lines += ["", "", "MENDS = {"]
    lines += [f'    Status.{name}: "{entry["mend"]}",' for name, entry in data["errors"].items()]
    lines += ["}", '"""What to do about an error."""', "", ""]
    lines += [
        "class OpRules(NamedTuple):",
        '    """request, reply: bytes of the payload, -1 for any. budget: ms that the op may take beside the link."""',
        "",
    ]
    lines += ["    request: int", "    reply: int", "    cached: bool", "    budget: int", "    needs: str", "", ""]
    lines += ["RULES = {"]
    for name, op in data["ops"].items():
        sizes = [size_of(data, op[side]) for side in ("request", "reply")]
        lines += [
            f'    Op.{name}: OpRules({sizes[0]}, {sizes[1]}, {op["cached"]}, {op["budget"]}, "{op.get("needs", "")}"),'
        ]
    lines += ["}", "", "WRITABLE = frozenset("]
    writable = [f"Region.{name}" for name, entry in data["regions"].items() if "w" in entry["access"]]
    lines += [f"    ({', '.join(writable)})", ")", '"""Regions that transfers write."""', ""]
    return "\n".join(lines)


def size_of(data: dict[str, Any], struct: str) -> int:
    return -1 if struct == "bytes" else data["struct"][struct]["size"] if struct else 0


def messages(data: dict[str, Any]) -> str:
    lines = [f'"""Structs of the protocol. {NOTE}"""', "", "from __future__ import annotations", ""]
    lines += ["from dataclasses import dataclass", "", "from pimchip.link.constants import Op"]
    lines += ["from pimchip.link.packing import Message", ""]
    for name, struct in data["struct"].items():
        lines += ["", "@dataclass(frozen=True, slots=True)", f'class {name}(Message, layout="{layout(data, name)}"):']
        lines += [f'    """{sentence(struct["meaning"])} {struct["size"]} bytes."""', ""]
        for field in struct["fields"]:
            base, count = field["base"], field["count"]
            kind = "bytes" if base in ("char", "u8") and count else base if base not in SCALARS else "int"
            if count and kind == "int":
                kind = f"tuple[{', '.join(['int'] * count)}]"
            lines += [f"    {field['name']}: {kind}"]
            if field["meaning"]:
                lines += [f'    """{sentence(field["meaning"])}"""']
        lines += [""]
    for side in ("request", "reply"):
        lines += ["", f"{'REQUESTS' if side == 'request' else 'REPLIES'}: dict[int, type[Message]] = {{"]
        lines += [f"    Op.{name}: {op[side]}," for name, op in data["ops"].items() if op[side] not in ("", "bytes")]
        lines += ["}", f'"""Payloads of {"requests" if side == "request" else "replies"}, where they are structs."""']
    lines += [""]
    return "\n".join(lines).replace('"""1."""', '"""Of the protocol, 1."""')


def layout(data: dict[str, Any], name: str) -> str:
    """What pimchip.link.packing reads: codes of struct, a struct's own within brackets."""
    out = []
    for field in data["struct"][name]["fields"]:
        base, count = field["base"], field["count"]
        if base in ("char", "u8") and count:
            out.append(f"{count}s")
        elif base in SCALARS:
            out.append(f"{count or ''}{SCALARS[base][0]}")
        else:
            out.append(base)
    return " ".join(out)


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


# ------------------------------------------------------------------------------------------------------------------ C


def c_header(data: dict[str, Any]) -> str:
    lines = [f"/* {NOTE} */", "#ifndef PIMP_PROTOCOL_H", "#define PIMP_PROTOCOL_H", ""]
    lines += [f"#define PIMP_VERSION {data['protocol']['version']}U"]
    for title, table, prefix in (
        ("limits", "limits", ""),
        ("timers", "timers", ""),
        ("kinds of frames", "kinds", "KIND_"),
        ("flags", "flags", "FLAG_"),
        ("classes of status", "status_classes", "CLASS_"),
        ("statuses", "errors", "ERROR_"),
        ("regions", "regions", "REGION_"),
        ("sources of streams", "sources", "SOURCE_"),
        ("ops", "ops", "OP_"),
    ):
        lines += ["", f"/* {title} */"]
        lines += [
            f"#define PIMP_{prefix}{name} {c_number(e['value'])} /* {e['meaning']} */"
            for name, e in data[table].items()
        ]
    lines += ["", "/* payloads of ops: bytes of request and reply; PIMP_ANY: any */", "#define PIMP_ANY 0xFFFFU"]
    for name, op in data["ops"].items():
        for side in ("request", "reply"):
            size = size_of(data, op[side])
            lines += [f"#define PIMP_{side.upper()}_SIZE_{name} {'PIMP_ANY' if size < 0 else f'{size}U'}"]
    lines += ["", "/* every op: X(name, request bytes, reply bytes, cached) */", "#define PIMP_OPS(X) \\"]
    rows = []
    for name, op in data["ops"].items():
        rows.append(f"    X({name}, PIMP_REQUEST_SIZE_{name}, PIMP_REPLY_SIZE_{name}, {int(op['cached'])})")
    lines += [" \\\n".join(rows)]
    for name, struct in data["struct"].items():
        upper = snake(name)
        lines += ["", f"/* {name}: {struct['meaning']} */", f"#define PIMP_{upper}_SIZE {struct['size']}U"]
        for path, offset, size, kind in flat(data, name):
            lines += [f"#define PIMP_{upper}_{path} {offset}U /* {kind} */"]
            lines += [f"#define PIMP_{upper}_{path}_SIZE {size}U"] * ("[" in kind)
    lines += ["", "#endif", ""]
    said: dict[str, str] = {}
    for line in lines:
        if line.startswith("#define PIMP_") and " " in line[8:]:
            name, value = line.split(maxsplit=2)[1:]
            value = value.partition("/*")[0].strip()
            assert said.setdefault(name, value) == value, f"{name} is defined twice"
    return "\n".join(lines)


def c_number(value: int) -> str:
    if value == -(1 << 31):
        return "(-2147483647 - 1)"
    return f"0x{value:X}{'ULL' if value >= 1 << 32 else 'U'}" if value > 0xFFFF else f"{value}U"


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def flat(data: dict[str, Any], name: str, prefix: str = "", start: int = 0) -> Iterator[tuple[str, int, int, str]]:
    """Every field, and those of structs within, with offset, bytes and type."""
    for field in data["struct"][name]["fields"]:
        path, offset = prefix + field["name"].upper(), start + field["offset"]
        yield path, offset, field["size"], field["type"]
        if field["base"] in data["struct"]:
            yield from flat(data, field["base"], f"{path}_", offset)


# ------------------------------------------------------------------------------------------------------------ SPEC.md


def tables(data: dict[str, Any]) -> dict[str, str]:
    """Markdown by the name in its markers."""
    found = {}
    for name in ("limits", "timers"):
        rows = [[f"`{n}`", shown(e["value"]), e["meaning"]] for n, e in data[name].items()]
        found[name] = table(["name", "value", "meaning"], rows)
    for name in ("kinds", "flags", "status_classes", "sources"):
        rows = [[f"`{n}`", shown(e["value"]), e["meaning"]] for n, e in data[name].items()]
        found[name] = table(["name", "value", "meaning"], rows)
    rows = [[f"`{n}`", f"0x{e['value']:04X}", e["meaning"], e["mend"]] for n, e in data["errors"].items()]
    found["errors"] = table(["name", "status", "meaning", "mend"], rows)
    rows = [[f"`{n}`", str(e["value"]), e["access"], e["handle"], e["meaning"]] for n, e in data["regions"].items()]
    found["regions"] = table(["name", "region", "access", "handle", "content"], rows)
    rows = []
    for name, op in data["ops"].items():
        cells = [linked(op["request"]), linked(op["reply"]), "yes" if op["cached"] else "no", str(op["budget"])]
        rows.append([f"`{name}`", f"0x{op['value']:02X}", *cells, op.get("needs", "") or "-", op["meaning"]])
    found["ops"] = table(["name", "op", "request", "reply", "cached", "budget, ms", "needs", "meaning"], rows)
    found["header"] = struct_table(data, "Header")
    parts = []
    for name, struct in data["struct"].items():
        if name != "Header":
            parts += [
                f"### {name}",
                "",
                f"{sentence(struct['meaning'])} {struct['size']} bytes.",
                "",
                struct_table(data, name),
                "",
            ]
    found["structs"] = "\n".join(parts).rstrip()
    return found


def struct_table(data: dict[str, Any], name: str) -> str:
    rows = [
        [
            str(f["offset"]),
            str(f["size"]),
            linked(f["type"]) if f["base"] in data["struct"] else f["type"],
            f"`{f['name']}`",
            f["meaning"],
        ]
        for f in data["struct"][name]["fields"]
    ]
    return table(["offset", "size", "type", "field", "meaning"], rows)


def shown(value: int) -> str:
    return str(value) if -(1 << 31) <= value <= 1 << 24 else hex(value)


def linked(struct: str) -> str:
    return {"": "-", "bytes": "bytes"}.get(struct) or f"[{struct}](#{struct.lower()})"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def with_tables(text: str, data: dict[str, Any]) -> str:
    """SPEC.md with what stands between its markers made anew."""
    for name, content in tables(data).items():
        begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        assert len(pattern.findall(text)) == 1, f"SPEC.md wants exactly one {begin}"
        text = pattern.sub(lambda _, made=f"{begin}\n{content}\n{end}": made, text)
    return text


def formatted(source: str, name: str) -> str:
    """As ruff formats it."""
    import subprocess

    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", name, "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


def main() -> None:
    data = load()
    made = {
        CONSTANTS: formatted(constants(data), "pimchip/link/constants.py"),
        MESSAGES: formatted(messages(data), "pimchip/link/messages.py"),
        HEADER: c_header(data),
    }
    if SPEC.exists():
        made[SPEC] = with_tables(SPEC.read_text(encoding="utf-8"), data)
    for path, text in made.items():
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            raise SystemExit(
                f"{path.relative_to(ROOT)} differs from protocol.toml: run {Path(__file__).name} and commit"
            )


if __name__ == "__main__":
    main()
