"""Pictures of a program's floor plan, one a residency pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pimchip.compiler.faults import Faults
from pimchip.compiler.program import Program
from pimchip.errors import InputError
from pimchip.report.floorplan import Floor, Rectangle, draw


def floors(program: Program, faults: Faults | None = None) -> list[Floor]:
    """What each pass holds. faults: of the die, to be marked."""
    m, array, found = program.manifest, program.spec.array, faults or Faults()
    names = [name for name, layer in m.layers.items() if layer.tiles]
    macros, made = range(array.macros), []
    room = array.macros * array.rows * array.columns
    for number in range(m.passes):
        tiles = [
            Rectangle(t.macro, t.row, t.column, t.rows, t.columns, layer, t.copy_number)
            for layer, name in enumerate(names)
            for t in m.layers[name].tiles
            if t.residency == number
        ]
        held = sum(t.rows * t.columns for t in tiles)
        title = (
            f"{m.name} on {program.spec.name}, pass {number + 1} of {m.passes}: {100 * held / room:.1f} % of the cells"
        )
        made.append(
            Floor(
                title,
                array.macros,
                array.rows,
                array.columns,
                names,
                tiles,
                {macro: sorted(found.rows.get(macro, ())) for macro in macros},
                {macro: sorted(found.bad_columns(program.spec, macro)) for macro in macros},
                {macro: sorted(found.cells.get(macro, {})) for macro in macros},
            )
        )
    return made


def draw_floors(
    program: Program, folder: Path, faults: Faults | None = None, tell: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write FOLDER/pass-1.png and so on; their paths. tell: called with pictures done and in all. Raises InputError where the
    folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--floorplan {folder}: {error.strerror}; name a folder that can be made") from None
    plans = floors(program, faults)
    paths = [folder / f"pass-{number:0{len(str(len(plans)))}d}.png" for number in range(1, len(plans) + 1)]
    for done, (plan, path) in enumerate(zip(plans, paths, strict=True), start=1):
        draw(plan, path)
        if tell:
            tell(done, len(plans))
    return paths
