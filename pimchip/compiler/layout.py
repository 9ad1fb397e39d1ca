"""Where the values of a tensor lie in another that it is a view of: reshape, permute, slices, followed without any data.

The tensor that is looked at is split into parts, each a factor of one of its axes; a view's axes are lists of parts. The
images' axis is part 0, so that views which move it about and bring it back are understood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from pimchip.compiler.ir import Arrange


@dataclass(frozen=True)
class Layout:
    """sizes: of all parts, in the order in which the values lie. cut: what is kept of each. dims: the parts of each axis."""

    sizes: tuple[int, ...]
    cut: tuple[tuple[int, int], ...]
    dims: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Layout:
        """A tensor as it is, the images' axis first."""
        return cls(shape, tuple((0, size) for size in shape), tuple((axis,) for axis in range(len(shape))))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the view."""
        return tuple(prod(self._kept(part) for part in dim) for dim in self.dims)

    @property
    def plain(self) -> bool:
        """Whether it is the tensor itself."""
        return self == Layout.of(self.sizes)

    def _kept(self, part: int) -> int:
        return self.cut[part][1] - self.cut[part][0]

    def permuted(self, order: tuple[int, ...]) -> Layout:
        """With the axes in this order."""
        return replace(self, dims=tuple(self.dims[axis] for axis in order))

    def narrowed(self, axis: int, start: int, stop: int) -> Layout | None:
        """start..stop of an axis; None where that is not one part."""
        parts = [part for part in self.dims[axis] if self._kept(part) > 1]
        if len(parts) != 1:
            return self if (start, stop) == (0, self.shape[axis]) else None
        first = self.cut[parts[0]][0]
        cut = tuple((first + start, first + stop) if part == parts[0] else held for part, held in enumerate(self.cut))
        return replace(self, cut=cut)

    def reshaped(self, shape: tuple[int, ...]) -> Layout | None:
        """Read as `shape`; None where a part of which something was cut would have to be split, or none divides it."""
        here, dims = self, list[tuple[int, ...]]()
        left = [part for dim in self.dims for part in dim]
        for size in shape:
            taken: list[int] = []
            want = size
            while want > 1:
                while left and here._kept(left[0]) == 1:
                    taken.append(left.pop(0))
                if not left:
                    return None
                kept = here._kept(left[0])
                if want % kept == 0:
                    taken.append(left.pop(0))
                    want //= kept
                    continue
                if kept % want or kept != here.sizes[left[0]]:
                    return None
                here, left, taken, dims = here._split(left[0], want, left, taken, dims)
                taken.append(left.pop(0))
                want = 1
            dims.append(tuple(taken))
        if any(here._kept(part) > 1 for part in left):
            return None
        if dims:  # what is left is of one value each
            dims[-1] = (*dims[-1], *left)
        return replace(here, dims=tuple(dims))

    def _split(
        self, part: int, first: int, left: list[int], taken: list[int], dims: list[tuple[int, ...]]
    ) -> tuple[Layout, list[int], list[int], list[tuple[int, ...]]]:
        """A part as two, of `first` and the rest; what counted parts counts them anew."""

        def moved(parts: list[int] | tuple[int, ...]) -> list[int]:
            return [at + (at > part) for at in parts]

        rest = self.sizes[part] // first
        sizes = (*self.sizes[:part], first, rest, *self.sizes[part + 1 :])
        cut = (*self.cut[:part], (0, first), (0, rest), *self.cut[part + 1 :])
        return (
            Layout(sizes, cut, self.dims),
            [part, part + 1, *moved(left[1:])],
            moved(taken),
            [tuple(moved(dim)) for dim in dims],
        )

    def arranged(self) -> Arrange | None:
        """The same for each image; None where images are not the first axis, alone and whole."""
        first = [part for part in self.dims[0] if self._kept(part) > 1]
        if first != [0] or self.cut[0] != (0, self.sizes[0]):
            return None
        spare = [part - 1 for part in self.dims[0] if part]  # of one value each
        dims = [tuple(part - 1 for part in dim) for dim in self.dims[1:]]
        if spare and dims:
            dims[0] = (*spare, *dims[0])
        return Arrange(self.sizes[1:], self.cut[1:], tuple(dims))
