"""The digits embedded in scikit-learn: 1797 images of 8x8, the set that needs no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (the test part), UCI repository.
"""

from __future__ import annotations

import numpy as np

from pimchip.errors import InputError
from pimchip.qat.data.order import hashed, spread
from pimchip.qat.data.types import Dataset, Split

TRAIN = 1198  # two thirds; the other 599 test


def load_digits() -> Dataset:
    """Return the digits as 1198 training and 599 test images, uint8 [n, 1, 8, 8], classes "0" to "9".

    Pixels, 0..16 at the source, are round(v * 255 / 16), halves up. The split never changes: sample i (in the order
    of scikit-learn) gets the SHA-256 of `pimchip digits i` as its key, `spread` orders them so that each class
    stands in proportion everywhere, and the first 1198 train. The source is sorted by writer, so a plain cut would
    put other hands into the test than into the training.
    InputError where scikit-learn is missing or holds other digits.
    """
    try:
        from sklearn.datasets import load_digits as embedded
    except ImportError as error:
        raise InputError(
            f"digits are scikit-learn's, which is not to be had ({error}): pip install scikit-learn"
        ) from None
    source = embedded()
    values = np.asarray(source.images).astype(np.int64)
    labels = np.asarray(source.target).astype(np.int64)
    if values.shape != (1797, 8, 8) or values.min() < 0 or values.max() > 16:
        raise InputError(f"scikit-learn's digits are {list(values.shape)}, not the 1797 of 8x8 the split is for")
    pixels = ((values * 510 + 16) // 32).astype(np.uint8)[:, None]
    order, _ = spread(labels.tolist(), [hashed(f"pimchip digits {index}") for index in range(len(labels))])
    train, test = (Split(pixels[part], labels[part]) for part in (order[:TRAIN], order[TRAIN:]))
    return Dataset("digits", tuple("0123456789"), train, test, "crop")
