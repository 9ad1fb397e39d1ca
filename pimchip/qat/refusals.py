"""What convert() refuses: layers that would not compute on the chip what they computed in floating point."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pimchip.errors import CompileError, InputError
from pimchip.qat.graph import LAYERS, NORMS

DTYPES = (torch.float32, torch.float64)
_LAYER_NAMES = [kind.__name__ for kind in LAYERS]


def refuse_network(network: nn.Module) -> None:
    """Raise for values that are none; CompileError for what would go into the array by half, or lose something there: torch's
    attention, which holds its input projections in a bare parameter, compiled layers and hooks."""
    for name, module in network.named_modules():
        _refuse_compiled(f"its {name}" if name else "it", module)
        if isinstance(module, nn.MultiheadAttention):
            raise CompileError(
                f"layer {name} (MultiheadAttention): its input projections are no layers, so only its output could be put "
                "on the chip; write the projections of q, k, v and the output as nn.Linear each"
            )
        if isinstance(module, LAYERS + NORMS):
            where = f"layer {name or 'of the network'} ({type(module).__name__})"
            for what, held in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                _refuse_values(where, what, held)
        if isinstance(module, (*LAYERS, nn.ReLU, nn.ReLU6)) and (module._forward_hooks or module._forward_pre_hooks):
            raise CompileError(
                f"layer {name} ({type(module).__name__}): it has forward hooks, as of pruning, which its converted layer would "
                "not run; remove them (torch.nn.utils.prune.remove) and convert again"
            )


def _refuse_compiled(what: str, module: nn.Module) -> None:
    """Raise CompileError for what torch.jit and torch.compile make of layers: there are none to be replaced."""
    if isinstance(module, torch.jit.ScriptModule) and (what == "it" or module.original_name in _LAYER_NAMES):
        raise CompileError(
            f"the network was compiled by torch.jit ({what} is a ScriptModule): convert the nn.Module it was made of"
        )
    if type(module).__name__ == "OptimizedModule":
        raise CompileError(
            f"the network was compiled by torch.compile ({what} is an OptimizedModule): convert what it was made of"
        )


def _refuse_values(where: str, what: str, held: Tensor) -> None:
    if is_lazy(held):
        raise InputError(f"{where}: it has no shape yet; run the network once on images, then convert it")
    if held.is_meta:
        raise InputError(f"{where}: its {what} is on the meta device and has no values; load weights, then convert it")
    if not held.is_floating_point():
        return
    if held.dtype not in DTYPES:
        dtype = str(held.dtype).removeprefix("torch.")
        raise InputError(f"{where}: its {what} is {dtype}; quantization wants float32: convert(network.float(), ...)")
    bad = int((~torch.isfinite(held)).sum())
    if bad:
        raise InputError(f"{where}: its {what} has {bad} NaN or infinite values; train again, from before they came")


def refuse_layer(name: str, layer: nn.Conv2d | nn.Linear) -> None:
    """Raise CompileError, naming the layer, for a forward of its own and for other than numeric zero padding."""
    plain = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    own = type(layer).forward is not plain.forward or "forward" in vars(layer)
    if own or (isinstance(layer, nn.Conv2d) and type(layer)._conv_forward is not nn.Conv2d._conv_forward):
        raise CompileError(
            f"layer {name} ({type(layer).__name__}): it computes in a way of its own, which a layer on the chip would not; "
            f"put a plain nn.{plain.__name__} with the weights that it computes with in its place"
        )
    if isinstance(layer, nn.Conv2d) and (isinstance(layer.padding, str) or layer.padding_mode != "zeros"):
        raise CompileError(
            f"layer {name} (Conv2d): padding = {layer.padding!r}, padding_mode = {layer.padding_mode!r} is not "
            "supported; use numeric zero padding"
        )
