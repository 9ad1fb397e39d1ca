"""Executes a Program on a Board: deployment, BN calibration on the chip, evaluation."""

from pimchip.runtime.calibrate import calibrate
from pimchip.runtime.deploy import Deployed, deploy, predict_accuracy
from pimchip.runtime.evaluate import Accuracy, accuracy
from pimchip.runtime.executor import Executor

__all__ = ["Accuracy", "Deployed", "Executor", "accuracy", "calibrate", "deploy", "predict_accuracy"]
