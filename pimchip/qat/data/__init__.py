"""The images a network is trained, calibrated and tested on: known data sets, folders of images, single files.

Everything here is uint8, [n, channels, height, width]; scaling to the chip's codes is the network's business.
Importing this package loads neither torch, scikit-learn nor Pillow.
"""

from __future__ import annotations

from pimchip.qat.data.augment import augment, batches
from pimchip.qat.data.calibration import calibration_images
from pimchip.qat.data.images import load_images
from pimchip.qat.data.load import DATASETS, load_dataset
from pimchip.qat.data.places import default_data_dir
from pimchip.qat.data.types import Augment, Dataset, ImageShape, Split

__all__ = [
    "DATASETS",
    "Augment",
    "Dataset",
    "ImageShape",
    "Split",
    "augment",
    "batches",
    "calibration_images",
    "default_data_dir",
    "load_dataset",
    "load_images",
]
