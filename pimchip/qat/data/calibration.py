"""Images for BN calibration: training images as training showed them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pimchip.qat.data.augment import augment, batches
from pimchip.qat.data.types import Dataset

if TYPE_CHECKING:
    import torch


def calibration_images(data: Dataset, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """`count` training images, uint8 [count, c, h, w], shuffled and augmented as for training.

    The statistics are to replace those that training left, which saw shifted and mirrored images; statistics of plain
    ones would normalize otherwise than the weights expect. Beyond one pass over the set, images come again, shifted
    anew.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    images = torch.from_numpy(data.train.images)
    parts: list[torch.Tensor] = []
    while sum(map(len, parts)) < count:
        (order,) = batches(len(images), len(images), generator)
        parts.append(augment(images[order], data.augment, generator))
    return torch.cat(parts)[:count].numpy()
