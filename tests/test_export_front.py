"""The front end on torch.export: what torch.fx does not follow, views, decompositions, and refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_networks import check
from torch import Tensor, fx, nn

from pimchip.chip import load_chip
from pimchip.compiler import compile_network
from pimchip.compiler.golden import run_network
from pimchip.compiler.layout import Layout
from pimchip.compiler.passes import run_passes
from pimchip.compiler.trace import trace
from pimchip.errors import CompileError
from pimchip.qat import build_model, convert

IMAGE = (3, 6, 6)
pytestmark = pytest.mark.filterwarnings("ignore::pimchip.errors.PimchipWarning")


class Own(nn.Module):
    """A forward that is a function of the network and the image."""

    def __init__(self, run: Callable[[Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.conv, self.bn, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.lin, self.fc = nn.Linear(8, 8), nn.Linear(8, 5)
        self.norm = nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.run(self, self.act(self.bn(self.conv(x)))))  # type: ignore[no-any-return]


def made(run: Callable[[Own, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    network = convert(Own(run), "sram65").train()
    network(torch.rand(8, *IMAGE))
    return network.eval()


def by_shape(m: Own, x: Tensor) -> Tensor:
    """Control flow on shapes: torch.fx cannot follow it."""
    while min(x.shape[2:]) > 1:
        x = F.max_pool2d(x, 2, ceil_mode=False) if x.shape[2] % 2 == 0 else F.avg_pool2d(x, x.shape[2])
    assert x.shape[1] == 8
    return x[:, :, 0, 0]


def tokens_of(m: Own, x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def attended(m: Own, x: Tensor, run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Two heads of four features on 36 tokens."""
    tokens = tokens_of(m, x)
    q, k, v = (y.unflatten(-1, (2, 4)).transpose(1, 2) for y in (m.lin(tokens), tokens, tokens))
    return run(q, k, v).transpose(1, 2).flatten(2).mean(1)


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) * 0.5


LATER = torch.ones(36, 36).triu(1).bool()
ANY = torch.rand(36, 36, generator=torch.Generator().manual_seed(0)) < 0.6
ANY.fill_diagonal_(True)
MASKS: list[tuple[str, Callable[[Tensor, Tensor, Tensor], Tensor]]] = [
    ("causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
    ("a mask of attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, ANY)),
    (
        "added by attention",
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, torch.zeros(36, 36).masked_fill(~ANY, -torch.inf)[None]
        ),
    ),
    (
        "filled",
        lambda q, k, v: scores(q, k).masked_fill(torch.ones(q.shape[2], 36).tril() == 0, -1e9).softmax(-1) @ v,
    ),
    ("added", lambda q, k, v: (scores(q, k) + torch.full((36, 36), -torch.inf).triu(1)).softmax(-1) @ v),
]
RUNS: list[tuple[str, Callable[[Own, Tensor], Tensor]]] = [
    ("control flow on shapes", by_shape),
    ("list of lengths", lambda m, x: sum(x.split(4, 1)[0].mean((2, 3)) for _ in range(1)) @ torch.eye(4).repeat(1, 2)),
    (
        "einsum",
        lambda m, x: (
            torch.einsum("nta,nsa->nts", tokens_of(m, x), tokens_of(m, x)).softmax(-1).matmul(tokens_of(m, x)).mean(1)
        ),
    ),
    (
        "rearranged patches",
        lambda m, x: m.lin(x.reshape(len(x), 8, 3, 2, 3, 2).permute(0, 2, 4, 3, 5, 1).flatten(1, 4)).mean(1),
    ),
    ("constants folded", lambda m, x: (tokens_of(m, x) + torch.arange(8.0) / 8 + m.scale.softmax(0)).mean(1)),
    ("difference", lambda m, x: (tokens_of(m, x) - m.lin(tokens_of(m, x))).mean(1)),
    ("channels last linear", lambda m, x: m.lin(x.permute(0, 2, 3, 1)).mean((1, 2))),
    ("norm of channels last", lambda m, x: m.norm(x.permute(0, 2, 3, 1)).flatten(1, 2)[:, 7]),
    ("functions", lambda m, x: (F.gelu(x) + torch.tanh(x) + F.silu(m.conv2(x)) * 0.5).mean((2, 3))),
    ("chunks", lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1).mean((2, 3))),
    ("squares", lambda m, x: (x * x).mean((2, 3))),
    (
        "squeeze and excite",
        lambda m, x: (x * m.lin(x.mean((2, 3))).sigmoid().view(-1, 8, 1, 1).expand_as(x)).mean((2, 3)),
    ),
    ("gates of tokens", lambda m, x: (tokens_of(m, x) * m.lin(tokens_of(m, x).mean(1, keepdim=True)).tanh()).mean(1)),
    ("gates of places", lambda m, x: (x[:, :, :1] * x[:, :1]).mean((2, 3))),
    ("product of vectors", lambda m, x: F.max_pool2d(x, 6).flatten(1) * m.lin(F.max_pool2d(x, 6).flatten(1))),
    ("a factor a channel", lambda m, x: (m.lin(tokens_of(m, x)) * m.scale).mean(1)),
    ("norm of groups", lambda m, x: F.group_norm(x, 2, m.scale, -m.scale).mean((2, 3))),
    *((name, partial(attended, run=run)) for name, run in MASKS),
    ("mask of tokens", lambda m, x: tokens_of(m, x).masked_fill(torch.arange(8) > 5, -torch.inf).softmax(-1).mean(1)),
    ("in place", lambda m, x: F.relu(m.conv2(x), inplace=True).add_(x).mul_(x.mean((2, 3), keepdim=True)).mean((2, 3))),
    ("squeezed", lambda m, x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)),
]
REFUSED = {
    "list of lengths": r"operation (matmul|mm|repeat)\(\)",
    "channels last linear": r"operation mean\(\).* over something else",
}


class TestNetworks:
    @pytest.mark.parametrize(("name", "run"), RUNS, ids=[name for name, _ in RUNS])
    def test_each_compiles_as_it_computes(self, name: str, run: Callable[[Own, Tensor], Tensor]) -> None:
        network = made(run)
        if name in REFUSED:
            with pytest.raises(CompileError, match=REFUSED[name]):
                compile_network(network, load_chip("sram65"), IMAGE, None)
            return
        check(network, load_chip("sram65"), IMAGE, 0)

    def test_torch_fx_cannot_follow_control_flow_on_shapes(self) -> None:
        with pytest.raises(Exception):  # noqa: B017 - torch.fx's own, of several kinds
            fx.symbolic_trace(Own(by_shape))

    def test_networks_of_modules_need_no_export(self) -> None:
        """It takes a second to import, which a ResNet's compilation takes less than."""
        code = (
            "import sys\nfrom pimchip.compiler import compile_network\nfrom pimchip.chip import load_chip\n"
            "from pimchip.qat import build_model, convert\n"
            "compile_network(convert(build_model('resnet8', (3, 8, 8), 5), 'sram65'), load_chip('sram65'), (3, 8, 8), None)\n"
            "print('torch.export._trace' in sys.modules)"
        )
        import subprocess

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"

    def test_the_network_is_as_it_was(self) -> None:
        network = made(by_shape)
        before = {name: type(module) for name, module in network.named_modules()}
        with pytest.raises(CompileError):
            compile_network(made(lambda m, x: torch.sin(x).mean((2, 3))), load_chip("sram65"), IMAGE, None)
        compile_network(network, load_chip("sram65"), IMAGE, None)
        assert {name: type(module) for name, module in network.named_modules()} == before

    def test_any_number_of_images_goes_through_the_operations(self) -> None:
        network = made(RUNS[3][1])
        graph = run_passes(network, load_chip("sram65"), IMAGE, stop_after="fold")
        for count in (1, 2, 11, 13):
            x = torch.rand(count, *IMAGE)
            with torch.no_grad():
                assert torch.equal(run_network(graph, x), network(x))  # type: ignore[arg-type]


def doubled(m: Own, x: Tensor) -> Tensor:
    """In place, and read as a view that was made before."""
    turned = x.transpose(2, 3)
    x.mul_(2.0)
    return (turned + x).mean((2, 3))


REFUSALS: list[tuple[Callable[[Own, Tensor], Tensor], str]] = [
    (doubled, r"operation mul\(\).* writes over what add reads later: let it work out of place"),
    (
        lambda m, x: x.flatten(2).mean(2) if x.mean() > 0 else x.mean((2, 3)),
        r"test_export_front\.py, line \d+\): it decides by values",
    ),
    (lambda m, x: x.mean((0, 2, 3)).expand(len(x), -1), r"operation mean\(\).*"),
    (lambda m, x: (x / m.conv2(x)).mean((2, 3)), r"operation div\(\).* divides by something else than one number"),
    (lambda m, x: (x + x[:, :1].expand_as(x)).mean((2, 3)), r"operation add\(\).* which only a product may"),
    (
        partial(
            attended, run=lambda q, k, v: (scores(q, k).masked_fill(LATER.t() | LATER, -torch.inf)).mean(3, True) * v
        ),
        r"operation mean\(\).* reads scores that are masked",
    ),
    (
        partial(attended, run=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.ones(36, 36))),
        r"adds something else than 0 or minus infinity",
    ),
    (
        partial(attended, run=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scores(q, k) > 0)),
        r"operation gt\(\).* is not supported",
    ),
    (
        partial(attended, run=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, LATER)),
        r"masks all there is to share of some rows",
    ),
    (lambda m, x: F.linear(x.mean((2, 3)), m.lin.weight[:, :, 0, 0]), r"operation linear\(\).* is not quantized"),
    (
        lambda m, x: x.cumsum(2).mean((2, 3)),
        r"operation cumsum\(\), between act \(ActQuant\) and mean\(\), is not supported",
    ),
    (lambda m, x: x.transpose(0, 1).flatten(1).t()[:, :8], r"images"),
]


@pytest.mark.parametrize(
    ("run", "words"),
    REFUSALS,
    ids=[
        "view written over",
        "values",
        "images",
        "quotient",
        "repeated",
        "masked",
        "bias",
        "computed",
        "nothing left",
        "linear",
        "cumsum",
        "mixed",
    ],
)
def test_refusals_name_the_operation_and_its_neighbours(run: Callable[[Own, Tensor], Tensor], words: str) -> None:
    torch.manual_seed(0)
    network = convert(Own(run), "sram65").eval()
    with pytest.raises(CompileError, match=words) as told:
        compile_network(network, load_chip("sram65"), IMAGE, None)
    assert "\n" not in str(told.value)


def test_a_module_in_place_may_not_write_over_what_is_read_again() -> None:
    class Residual(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.flatten(x + x, 1)
            return self.act(y) + y

    for inplace in (False, True):
        found = list[str]()
        trace(Residual(inplace), found)
        assert len(found) == inplace and all("act (ReLU)" in each and "writes over" in each for each in found)


MOVES = st.lists(st.tuples(st.sampled_from(["permute", "merge", "split", "narrow"]), st.integers(0, 10**6)), max_size=6)


class TestLayout:
    @given(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4), MOVES)
    @settings(max_examples=200, deadline=None)
    def test_it_says_where_torch_s_views_have_each_value(self, shape: list[int], moves: list[tuple[str, int]]) -> None:
        images = 11
        x = torch.arange(images * int(np.prod(shape))).reshape(images, *shape)
        layout, y = Layout.of(tuple(x.shape)), x
        for kind, seed in moves:
            rng = np.random.default_rng(seed)
            if kind == "permute":
                order = tuple(rng.permutation(y.ndim).tolist())
                layout, y = layout.permuted(order), y.permute(order)
                continue
            axis, sizes = int(rng.integers(y.ndim)), list(y.shape)
            if kind == "narrow":
                start = int(rng.integers(sizes[axis]))
                stop = int(rng.integers(start, sizes[axis])) + 1
                found = layout.narrowed(axis, start, stop)
                if found is not None:
                    layout, y = found, y.narrow(axis, start, stop - start)
                continue
            if kind == "merge" and axis + 1 < y.ndim:
                sizes[axis : axis + 2] = [sizes[axis] * sizes[axis + 1]]
            elif kind == "split":
                divisors = [d for d in range(1, sizes[axis] + 1) if sizes[axis] % d == 0]
                first = divisors[int(rng.integers(len(divisors)))]
                sizes[axis : axis + 1] = [first, sizes[axis] // first]
            found = layout.reshaped(tuple(sizes))
            if found is not None:
                layout, y = found, y.reshape(sizes)
        assert layout.shape == tuple(y.shape)
        parts = x.reshape(layout.sizes)[tuple(slice(*cut) for cut in layout.cut)]
        order = [part for dim in layout.dims for part in dim]
        assert torch.equal(parts.permute(order).reshape(layout.shape), y)


def test_the_zoo_s_encoder_is_read_by_export_and_the_rest_by_fx() -> None:
    graph = run_passes(convert(build_model("mlp", IMAGE, 5), "sram65"), load_chip("sram65"), IMAGE, stop_after="trace")
    assert [op.kind for op in graph.ops][:3] == ["input", "flatten", "layer"]
