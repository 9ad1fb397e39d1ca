"""PIM-QAT: quantizers, PIM layers with the ADC in the loop, training, data sets and a model zoo."""

from pimchip.qat.bn import calibrate_bn
from pimchip.qat.checkpoint import ModelFile, load_model, save_model
from pimchip.qat.convert import convert, pim_layers
from pimchip.qat.layers import DigitalConv2d, DigitalLinear
from pimchip.qat.models import MODELS, build_model
from pimchip.qat.pim import PimConv2d, PimLinear
from pimchip.qat.quantizers import ActQuant
from pimchip.qat.ranges import find_ranges
from pimchip.qat.settings import Settings
from pimchip.qat.state import EpochReport, TrainState
from pimchip.qat.train import evaluate, predict, train

__all__ = [
    "MODELS",
    "ActQuant",
    "DigitalConv2d",
    "DigitalLinear",
    "EpochReport",
    "ModelFile",
    "PimConv2d",
    "PimLinear",
    "Settings",
    "TrainState",
    "build_model",
    "calibrate_bn",
    "convert",
    "evaluate",
    "find_ranges",
    "load_model",
    "pim_layers",
    "predict",
    "save_model",
    "train",
]
