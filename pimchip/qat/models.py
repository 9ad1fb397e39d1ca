"""The model zoo: plain float networks, made for the chip by convert().

Residual networks follow He et al. (arXiv 1512.03385) for small images, depth 6n + 2, with 1 x 1 convolutions where
the shape changes. Widths 16, 32, 64. The encoder is a small transformer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pimchip.errors import InputError, PimchipError, unknown
from pimchip.qat.conversion import of_zoo

Factory = Callable[[tuple[int, int, int], int], nn.Module]
"""(image shape, classes) -> a float network, as the zoo's."""


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, channels_in, h, w]."""
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act2(y + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Stages of blocks on small images; each stage after the first halves the map."""

    def __init__(self, in_channels: int, classes: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.act = nn.ReLU()
        stages, before = [], widths[0]
        for index, width in enumerate(widths):
            rest = [Block(width, width, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(Block(before, width, 1 if index == 0 else 2), *rest))
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, channels, h, w] in 0..1; returns logits [n, classes]."""
        x = self.stages(self.act(self.bn(self.conv(x))))
        return self.fc(self.flatten(self.pool(x)))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Three hidden layers of 128; the middle two can live in the array."""

    def __init__(self, inputs: int, classes: int, width: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for features in (inputs, width, width):
            layers += [nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, channels, h, w] in 0..1; returns logits [n, classes]."""
        return self.layers(x)  # type: ignore[no-any-return]


def _unit(channels_in: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


class Mobile(nn.Module):
    """Depthwise separable convolutions (MobileNet, arXiv 1704.04861) for small images."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        layers, width = [_unit(in_channels, 16, 3)], 16
        for channels, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
            layers += [_unit(width, width, 3, stride, width), _unit(width, channels, 1)]
            width = channels
        self.layers, self.pool, self.flatten = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, channels, h, w] in 0..1; returns logits [n, classes]."""
        return self.fc(self.flatten(self.pool(self.layers(x))))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Of tokens among each other, in heads (Vaswani et al., arXiv 1706.03762); four linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, tokens, width]."""
        n, tokens, width = x.shape
        size = width // self.heads
        q, k, v = (y.view(n, tokens, self.heads, size).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        shares = (q @ k.transpose(-2, -1) * size**-0.5).softmax(-1)
        return self.out((shares @ v).transpose(1, 2).reshape(n, tokens, width))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Attention and two linear layers with GELU, each behind a LayerNorm and beside a sum."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.mlp1, self.gelu, self.mlp2 = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, tokens, width]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp2(self.gelu(self.mlp1(self.norm2(x))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """A small transformer encoder on patches of the image (ViT, arXiv 2010.11929), with the mean over its tokens.

    Convolutions with BN make the tokens: with patches alone SGD hardly trains it (Xiao et al., arXiv 2106.14881).
    signed_inputs: how convert() is to read what can be negative.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, width: int = 64, blocks: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        patch = 2 if max(shape[1:]) < 16 else 4
        tokens = (shape[1] // patch) * (shape[2] // patch)
        if not tokens:
            raise InputError(f"images of {shape[1]}x{shape[2]} are smaller than a patch of {patch}x{patch}")
        self.conv, self.bn, self.act = nn.Conv2d(shape[0], 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        self.patches, self.bn2 = nn.Conv2d(32, width, patch, patch, bias=False), nn.BatchNorm2d(width)
        self.place = nn.Parameter(0.1 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(blocks)))
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, classes)
        layers = ("attention.q", "attention.k", "attention.v", "attention.out", "mlp1", "mlp2")
        self.signed_inputs = {f"blocks.{b}.{layer}": "shift" for b in range(blocks) for layer in layers}

    def forward(self, x: Tensor) -> Tensor:
        """x: [n, channels, h, w] in 0..1; returns logits [n, classes]."""
        x = self.bn2(self.patches(self.act(self.bn(self.conv(x)))))
        x = x.flatten(2).transpose(1, 2) + self.place
        return self.fc(self.norm(self.blocks(x)).mean(1))  # type: ignore[no-any-return]


def _resnet(depth: int) -> Factory:
    return lambda shape, classes: ResNet(shape[0], classes, (16, 32, 64), (depth - 2) // 6)


MODELS: dict[str, Factory] = {
    "mlp": lambda shape, classes: Mlp(math.prod(shape), classes),
    "encoder": Encoder,
    "mobile": lambda shape, classes: Mobile(shape[0], classes),
    "tiny": lambda shape, classes: ResNet(shape[0], classes, (32, 64), 1),
    **{f"resnet{depth}": _resnet(depth) for depth in (8, 20, 32, 44, 56)},
}


def build_model(name: str, image_shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
    """A float network of the zoo with weights drawn from `seed`. image_shape: (channels, height, width)."""
    if not isinstance(name, str) or name not in MODELS:
        raise InputError(unknown("model", name, MODELS) + "; one of your own: train --factory package.module:callable")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return of_zoo(MODELS[name](image_shape, classes), name)


def failure(error: Exception) -> str:
    """Why a caller's factory failed; of a package that is an extra of ours, how to install it."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "brevitas":
        return "Brevitas is not installed: pip install 'pimchip[brevitas]'"
    return f"{type(error).__name__}: {error}"


def made_by(
    factory: Factory, image_shape: tuple[int, int, int], classes: int, called: str, mend: str = ""
) -> nn.Module:
    """What a caller's factory makes. called: how errors call it; mend: how they end. Raises InputError where it fails, as of a
    class that takes something else, and where it makes no network."""
    if not callable(factory):
        raise InputError(f"{called}: not a callable (image shape, number of classes) -> module{mend}")
    try:
        network: object = factory(image_shape, classes)
    except PimchipError:
        raise
    except Exception as error:
        said = failure(error)
        raise InputError(f"{called}, called with (image shape, number of classes), failed: {said}{mend}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{called} returned {type(network).__name__}; a torch.nn.Module is wanted")
    return network
