"""What training shows the network: shuffled batches, shifted and mirrored images. Reproducible from the generator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from pimchip.errors import InputError, unknown
from pimchip.qat.data.types import Augment

if TYPE_CHECKING:
    import torch


def augment(images: torch.Tensor, kind: Augment, generator: torch.Generator) -> torch.Tensor:
    """Return images shifted, and perhaps mirrored, at random, each on its own.

    images: uint8 [n, channels, height, width], on any device; the result has the same shape, dtype and device, and
    for "none" is `images` itself. "crop" pads every side with zeros, by an eighth of the height above and below and
    of the width left and right (4 at 32, 3 at 28, 1 at 8), and cuts the size back out anywhere; "crop-flip" also
    mirrors left to right half of the time. The draws are made on the generator's device, so a CPU generator gives
    the same images on every device. InputError on another kind, dtype or number of axes.
    """
    import torch
    from torch.nn.functional import pad

    if kind not in get_args(Augment):
        raise InputError(unknown("augmentation", str(kind), get_args(Augment)))
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise InputError(f"augment wants uint8 [n, c, h, w], not {images.dtype} {list(images.shape)}")
    if kind == "none":
        return images
    n, channels, height, width = images.shape
    down, across = height // 8, width // 8

    def draw(end: int) -> torch.Tensor:
        drawn = torch.randint(end, (n, 1), generator=generator, device=generator.device)
        return drawn.to(images.device)

    top, left = draw(2 * down + 1), draw(2 * across + 1)
    columns = torch.arange(width, device=images.device)
    if kind == "crop-flip":
        columns = torch.where(draw(2).bool(), columns.flip(0), columns)
    rows, columns = top + torch.arange(height, device=images.device), left + columns
    padded = pad(images, (across, across, down, down))
    # one gather of precomputed pixel numbers; indexing with four index tensors takes several times as long
    pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    gathered = padded.flatten(2).gather(2, pixels.view(n, 1, -1).expand(n, channels, -1))
    return gathered.view(images.shape)


def batches(
    n: int, batch_size: int, generator: torch.Generator | None = None, *, drop_last: bool = False
) -> Iterator[torch.Tensor]:
    """Yield the indices 0..n-1 as int64 tensors of `batch_size`, shuffled where a generator is given.

    The last batch may be smaller; `drop_last` leaves it out. One permutation is drawn at the call, whatever the batch
    size. InputError where n or batch_size is below 1, or drop_last would leave nothing.
    """
    import torch

    if n < 1 or batch_size < 1:
        raise InputError(f"batches want at least 1 sample and a batch size of at least 1, not {n} and {batch_size}")
    if drop_last and n < batch_size:
        raise InputError(f"a batch size of {batch_size} with drop_last leaves none of {n} samples")
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator, device=generator.device)
    return iter(torch.split(order[: n - n % batch_size] if drop_last else order, batch_size))
