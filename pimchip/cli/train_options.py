"""The options of pimchip train."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path

import click

_OPTIONS = (
    click.option(
        "--data",
        default="digits",
        show_default=True,
        help="digits, fashion-mnist, cifar10, cifar100, or a folder of images.",
    ),
    click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are."),
    click.option(
        "--model",
        default="tiny",
        show_default=True,
        help="mlp, tiny, mobile, encoder, resnet8, resnet20, resnet32, resnet44, resnet56.",
    ),
    click.option(
        "--factory",
        metavar="MODULE:CALLABLE",
        help="Your own network: called with (image shape, classes). Runs your code.",
    ),
    click.option("--chip", default="sram65", show_default=True, help="A built-in chip or a TOML file."),
    click.option("--scheme", help="native, differential or bit_serial.  [default: the chip's]"),
    click.option("--adc-bits", type=int, help="Resolution to run at.  [default: the chip's]"),
    click.option(
        "--train-adc-bits", metavar="N|auto", help="Resolution to train at; auto: what the noise of --profile leaves."
    ),
    click.option("--profile", type=click.Path(path_type=Path), help="A measured profile, for --train-adc-bits auto."),
    click.option("--rows", type=int, help="Rows that share an analog sum.  [default: the chip's]"),
    click.option("--weight-bits", type=int, help="Weights.  [default: the chip's]"),
    click.option("--act-bits", type=int, help="Activations.  [default: the chip's]"),
    click.option("--dac-bits", type=int, help="Bits of an activation slice.  [default: the chip's]"),
    click.option(
        "--range-divisor",
        metavar="N|auto",
        help="The ADC's full scale is divided by it; auto: each layer's best on data, at the chip's noise.  [default: the chip's]",
    ),
    click.option(
        "--noise",
        "noise_lsb",
        type=float,
        default=0.0,
        show_default=True,
        help="Noise in training, LSB before each conversion.",
    ),
    click.option("--backward", default="gste", show_default=True, help="Gradient through the ADC: gste, ste or lmmse."),
    click.option("--xi", default="layer", show_default=True, help="Gradient factor: one a layer, or one a channel."),
    click.option("--bit-aug", type=int, default=0, help="Train at ADC bits drawn from so many around its own."),
    click.option(
        "--on-die",
        "dies",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Train on a measured die, by its profile; several: on one drawn for each pass.",
    ),
    click.option("--eta", default="const", show_default=True, help="Forward rescaling: const, auto or learnable."),
    click.option(
        "--activation-scale",
        type=click.FloatRange(0, 16, min_open=True),
        help="Factor of BN's gammas and betas at the start, so that activations fit their grid.  [default: 0.4]",
    ),
    click.option(
        "--pim-skip",
        metavar="WHERE,...",
        help="Layers that stay on the processor: of first, last and shortcut, or none.  [default: first,last,shortcut]",
    ),
    click.option("--digital", is_flag=True, help="Conventional quantization, without the ADC in the loop."),
    click.option(
        "--epochs", type=click.IntRange(0, 100_000), default=20, show_default=True, help="Passes over the data."
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(2, 65536),
        default=64,
        show_default=True,
        help="Images a step, of all processes together.",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(0, 1000, min_open=True),
        default=0.1,
        show_default=True,
        help="Learning rate at its highest; --schedule shapes it.",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["cosine", "multistep", "one-cycle", "constant"]),
        default="cosine",
        show_default=True,
        help="Of the learning rate.",
    ),
    click.option(
        "--warmup",
        type=click.FloatRange(0, 1),
        help="Share of the run over which the learning rate rises.  [default: 0.05; one-cycle 0.3]",
    ),
    click.option(
        "--milestones",
        metavar="N,N...",
        help="Epochs after which multistep drops tenfold.  [default: 1/2 and 3/4 of all]",
    ),
    click.option(
        "--label-smoothing",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        help="Share of each label spread over all classes.",
    ),
    click.option(
        "--clip-gradient",
        type=click.FloatRange(0, 1e6),
        default=0.0,
        show_default=True,
        help="Largest norm of all gradients together; 0: any.",
    ),
    click.option(
        "--ema",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        help="Decay of the weights' moving average, say 0.999, which is then what is evaluated and saved; 0: none.",
    ),
    click.option(
        "--validation",
        type=click.FloatRange(0, 1, max_open=True),
        metavar="SHARE",
        help="Training images held out to judge by.  [default: 0.1 with --patience, else 0]",
    ),
    click.option(
        "--patience",
        "--early-stop",
        "patience",
        type=click.IntRange(0, 100_000),
        metavar="EPOCHS",
        default=0,
        show_default=True,
        help="Stop after so many epochs without a better accuracy on the images held out, and keep the best; 0: never.",
    ),
    click.option(
        "--log",
        "--log-file",
        "log",
        type=click.Path(path_type=Path),
        help="Write each epoch's figures to a file, a JSON object a line. (Under torchrun --log-file: it has a --log itself.)",
    ),
    click.option(
        "--plot",
        type=click.Path(path_type=Path),
        help="Draw loss, accuracy and xi to a .png, .svg or .pdf, every epoch.",
    ),
    click.option(
        "--init",
        type=click.Path(path_type=Path),
        help="Start from the weights of another model.pt of this network, or from the state dict of the float network.",
    ),
    click.option("--resume", type=click.Path(path_type=Path), help="Go on with an interrupted run's checkpoint."),
    click.option("--deterministic", is_flag=True, help="One thread: the same checkpoint on any number of cores."),
    click.option(
        "--out", type=click.Path(path_type=Path), default=Path("model.pt"), show_default=True, help="The checkpoint."
    ),
)


def train_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command all of them; each is an argument of its name."""
    return reduce(lambda made, option: option(made), reversed(_OPTIONS), function)
