"""The chip as firmware_protocol/CHIP.md words it, on Python integers, one conversion at a time: a second truth.

Written from that text alone; imports nothing of pimchip, and reads the table of the Gaussian from the vectors' folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "firmware_protocol"
NOISE, SLOW = 0, 3
WORD = 1 << 32


@cache
def gauss_table() -> list[int]:
    """The 1536 words."""
    return [int(line, 16) for line in (FOLDER / "vectors" / "chip" / "gauss_table.hex").read_text().split()]


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Section 5: ten rounds."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 // WORD ^ c[1] ^ k[0], p1 % WORD, p0 // WORD ^ c[3] ^ k[1], p0 % WORD]
        k = [(k[0] + 0x9E3779B9) % WORD, (k[1] + 0xBB67AE85) % WORD]
    return c


def word(index: int, domain: int, tag: int, epoch: int, seed: int) -> int:
    """Section 5: the word of an index."""
    block = index // 4
    counter = [block % WORD, block // WORD, domain * 2**24 + tag % 2**24, epoch]
    return philox(counter, [seed % WORD, seed // WORD])[index % 4]


@dataclass(frozen=True)
class Gauss:
    """Section 6: a deviate with what comes before it."""

    sign: int
    m: int
    e: int
    segment: int
    place: int
    base: int
    fall: int
    z16: int
    z: int

    @classmethod
    def of(cls, r: int) -> Gauss:
        m = 2 * (r // 256 % 2**23) + 1
        e = m.bit_length() - 1
        rest = (m - 2**e) * 2 ** (23 - e)
        segment, place = rest // 2**17, rest % 2**17
        base, fall = divmod(gauss_table()[64 * e + segment], 4096)
        z16 = base - fall * place // 2**17
        z = (z16 + 8) // 16
        return cls(r // 2**31, m, e, segment, place, base, fall, z16, -z if r // 2**31 else z)


@dataclass(frozen=True)
class Point:
    """Section 2: the operating point and what follows from it."""

    scheme: str
    rows: int
    weight_bits: int
    act_bits: int
    dac_bits: int
    adc_bits: int
    range_divisor: int

    @property
    def digit(self) -> int:
        return 2**self.dac_bits

    @property
    def slices(self) -> int:
        return (self.act_bits + self.dac_bits - 1) // self.dac_bits

    @property
    def plane_weights(self) -> list[int]:
        if self.scheme == "native":
            return [1]
        if self.scheme == "differential":
            return [1, -1]
        return [2**k if k < self.weight_bits - 1 else -(2**k) for k in range(self.weight_bits)]

    @property
    def code_max(self) -> int:
        return 2 ** (self.adc_bits - (self.scheme == "native")) - 1

    @property
    def code_min(self) -> int:
        return -self.code_max if self.scheme == "native" else 0

    @property
    def sum_max(self) -> int:
        cell_max = 1 if self.scheme == "bit_serial" else 2 ** (self.weight_bits - 1) - 1
        return self.rows * (self.digit - 1) * cell_max

    @property
    def sum_min(self) -> int:
        return -self.sum_max if self.scheme == "native" else 0

    def cells(self, weight: int) -> list[int]:
        """Section 3: the cells of one weight, a plane each."""
        if self.scheme == "native":
            return [weight]
        if self.scheme == "differential":
            return [weight if weight > 0 else 0, -weight if weight < 0 else 0]
        return [weight % 2**self.weight_bits >> k & 1 for k in range(self.weight_bits)]


@dataclass(frozen=True)
class Tables:
    """Section 1: the converters' tables, as lists."""

    transfer: list[list[int]]
    sigma: list[int] | list[list[int]]
    slow: list[int] | None = None
    octaves: int = 0
    code_map: list[list[int]] | None = None


@dataclass(frozen=True)
class Conversion:
    """Section 4: a conversion with every value on the way."""

    clamped: int
    place: int
    fraction: int
    t: int
    n_fast: int
    n_slow: int
    i: int
    code: int


def convert(v: int, point: Point, tables: Tables, adc: int, q: int, deviate: int, slow_sum: int) -> Conversion:
    """Section 4. deviate, slow_sum: 0 on a silent chip."""
    clamped = min(max(v, point.sum_min * 2**q), point.sum_max * 2**q)
    place, fraction = clamped // 2**q - point.sum_min, clamped % 2**q
    row = tables.transfer[adc]
    t = row[place]
    if fraction:
        t += (row[place + 1] - row[place]) * fraction // 2**q
    sigma = tables.sigma[adc]
    if isinstance(sigma, list):
        sigma = sigma[place]
    n_fast = (sigma * deviate + 2048) // 4096
    n_slow = (tables.slow[adc] * slow_sum + 2048) // 4096 if tables.slow else 0
    i = (t + n_fast + n_slow + 32768) // 1024
    if tables.code_map is None:
        code = min(max(i // 64, point.code_min), point.code_max)
    else:
        entry = min(max(i, 64 * point.code_min), 64 * point.code_max + 63) - 64 * point.code_min
        code = tables.code_map[adc][entry]
    return Conversion(clamped, place, fraction, t, n_fast, n_slow, i, code)


@dataclass(frozen=True)
class Layer:
    """A layer on a die and the noise of a run. adc, macro: [groups][columns]; cells, errors: [K][columns]."""

    point: Point
    tables: Tables
    cells: list[list[int]]
    errors: list[list[int]] | None
    q: int
    adc: list[list[int]]
    macro: list[list[int]]
    seed: int | None
    epoch: int
    first_vector: int

    @property
    def groups(self) -> int:
        return (len(self.cells) + self.point.rows - 1) // self.point.rows

    @property
    def stride(self) -> int:
        return (len(self.cells[0]) + 3) // 4 * 4

    def sum(self, x: list[int], group: int, index: int, column: int) -> int:
        """V of section 3."""
        total = 0
        for k in range(group * self.point.rows, min((group + 1) * self.point.rows, len(x))):
            digit = x[k] // self.point.digit**index % self.point.digit
            total += self.cells[k][column] * digit * 2**self.q
            total += self.errors[k][column] * digit if self.errors else 0
        return total

    def cycle(self, vector: int, group: int, index: int) -> int:
        return ((self.first_vector + vector) * self.groups + group) * self.point.slices + index

    def deviate(self, cycle: int, group: int, column: int) -> int:
        """Fast noise of a conversion, 2^-12."""
        if self.seed is None:
            return 0
        tag = self.macro[group][column]
        return Gauss.of(word(cycle * self.stride + column, NOISE, tag, self.epoch, self.seed)).z

    def slow_sum(self, cycle: int, group: int, column: int) -> int:
        """Slow noise of a cycle's converter, 2^-12."""
        if self.seed is None:
            return 0
        adc, total = self.adc[group][column], 0
        for octave in range(self.tables.octaves):
            index = cycle // 2 ** (octave + 1) * 16 + octave
            total += Gauss.of(word(index, SLOW, adc, self.epoch, self.seed)).z
        return total

    def conversion(self, x: list[int], vector: int, group: int, index: int, column: int) -> Conversion:
        cycle = self.cycle(vector, group, index)
        return convert(
            self.sum(x, group, index, column),
            self.point,
            self.tables,
            self.adc[group][column],
            self.q,
            self.deviate(cycle, group, column),
            self.slow_sum(cycle, group, column),
        )

    def codes(self, x: list[list[int]]) -> list[list[list[list[int]]]]:
        """[M][groups][slices][columns]."""
        return [
            [
                [
                    [self.conversion(row, m, g, s, c).code for c in range(len(self.cells[0]))]
                    for s in range(self.point.slices)
                ]
                for g in range(self.groups)
            ]
            for m, row in enumerate(x)
        ]


def codes_of_copies(copies: list[Layer], x: list[list[int]]) -> list[list[list[list[int]]]]:
    """Section 7: codes of a layer that is held several times, alike but for cells, errors, converters and macros."""
    each = [copy.codes(x) for copy in copies]
    return [each[(copies[0].first_vector + v) % len(copies)][v] for v in range(len(x))]


def recombine(codes: list[list[list[list[int]]]], point: Point) -> list[list[int]]:
    """Section 7."""
    planes = len(point.plane_weights)
    out = []
    for vector in codes:
        y = [0] * (len(vector[0][0]) // planes)
        for group in vector:
            for index, columns in enumerate(group):
                for column, code in enumerate(columns):
                    y[column // planes] += point.digit**index * point.plane_weights[column % planes] * code
        out.append(y)
    return out
