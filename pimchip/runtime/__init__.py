"""Executes a Program on a Board: deployment, BN calibration on the chip, evaluation."""

from pimchip.runtime.calibrate import calibrate
from pimchip.runtime.deploy import deploy
from pimchip.runtime.deployed import Deployed
from pimchip.runtime.evaluate import Accuracy, accuracy
from pimchip.runtime.executor import Executor
from pimchip.runtime.results import predict_accuracy

__all__ = ["Accuracy", "Deployed", "Executor", "accuracy", "calibrate", "deploy", "predict_accuracy"]
