"""pimchip bench."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pimchip.cli.common import Command, Reply, check_out, command_options, table

PICTURES = (".png", ".svg", ".pdf")
MEGA, MEBI = 1e6, 1 << 20


@click.group("bench")
def command() -> None:
    """Measure how fast pimchip itself is on this machine."""


@command.command("emulator", cls=Command)
@click.option("--images", type=click.IntRange(1), help="Images of ResNet-20.  [default: 256]")
@click.option("--data", help="Their data set, 3 x 32 x 32.  [default: random images]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set's files are.")
@click.option("--dies", type=click.IntRange(2), help="Dies emulated in one process.  [default: 100]")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw time against conversions to a .png, .svg or .pdf.")
@click.option("--quick", is_flag=True, help="Small sizes and few repetitions: to see that it runs, not to compare.")
@command_options
def emulator(
    reply: Reply,
    *,
    images: int | None,
    data: str | None,
    data_dir: Path | None,
    dies: int | None,
    plot: Path | None,
    quick: bool,
) -> None:
    """Speed and memory of emulated dies, all measured in this run, taken in turns.

    The reference tile is 144 rows x 64 columns of sram65 (bit planes, 4-bit inputs, 7-bit ADCs with their own curves and
    noise) and 8192 vectors, against float torch code without curves, and against other simulators where installed.
    ResNet-20 at 32 x 32 runs on the same chip and as float32 in torch.
    """
    if plot is not None:
        check_out(plot)

    from dataclasses import replace

    from pimchip.errors import InputError
    from pimchip.workflows.bench_emulator import FULL, QUICK, bench_emulator

    if plot is not None and plot.suffix not in PICTURES:
        raise InputError(f"--plot {plot}: name a file that ends in {', '.join(PICTURES)}")
    sizes = QUICK if quick else FULL
    sizes = replace(sizes, images=images or sizes.images, dies=dies or sizes.dies)
    with reply.stages() as tell:
        found = bench_emulator(sizes, reply.seed, tell, data=data, data_dir=data_dir)
    if plot is not None:
        from pimchip.report.plots import save_scaling

        points = [(p["conversions"], p["seconds"], p["seconds_range"]) for p in found["scaling"]]
        save_scaling(plot, points, found["scaling_slope_largest"], found["scaling_slope_largest_from"])
    for part in _tables(found):
        reply.show(part)
    if quick:
        reply.show("--quick: sizes are too small to compare these with anything")
    reply.done({**found, "quick": quick, "plot": None if plot is None else str(plot)})


@command.command("train", cls=Command)
@click.option("--model", default="resnet20", show_default=True, help="resnet8, resnet20, resnet32, resnet44, resnet56.")
@click.option("--batch-size", type=click.IntRange(2, 4096), default=64, show_default=True, help="Images a step.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=12, show_default=True, help="Steps of each kind.")
@command_options
def train(reply: Reply, *, model: str, batch_size: int, rounds: int) -> None:
    """Time and memory of a training step, all kinds in turn in this run.

    PIM-QAT on each scheme of sram65 (144 rows, one 4-bit slice, 7-bit ADCs) against the same network with plain 4-bit
    fake quantization in torch, and against float32, on random 32 x 32 images.
    """
    from pimchip.workflows.bench_training import KINDS, bench_training

    with reply.stages() as tell:
        found = bench_training(model, batch_size, rounds, reply.seed, tell)
    rows = [
        [
            kind,
            f"{found['seconds'][kind] * 1e3:,.0f}",
            *(_ratio(found, f"step_ratio_to_{base}", kind) for base in ("qat", "qat_channels_last", "float")),
            f"{found['memory_bytes'][kind] / MEBI:,.0f}",
        ]
        for kind in KINDS
    ]
    columns = ["", "ms a step", "/ plain QAT", "/ channels-last", "/ float32", "MiB"]
    reply.show(
        table(
            f"{model}, batches of {batch_size}, {rounds} steps each: time, its ratios with their range, memory",
            columns,
            rows,
        )
    )
    reply.show(f"{found['cpu']}, {found['cores']} cores; {found['threads']} threads; torch {found['torch']}.")
    reply.done(found)


@command.command("link", cls=Command)
@click.option("--python", is_flag=True, help="Over loopback to the Python server, even where the C twin can be built.")
@click.option("--quick", is_flag=True, help="Small sizes and few repetitions: to see that it runs, not to compare.")
@command_options
def link(reply: Reply, *, python: bool, quick: bool) -> None:
    """What the protocol makes of a line: transfers over a paced and over a fast one, and a network's traffic.

    10 MB of cells are sent and programmed over an emulated line of 12 Mbaud with 1 and 16 ms latency each way, by a clock
    of its own, and over loopback TCP to the C firmware's host twin (built with gcc where that is there, else to the
    Python server), by the machine's clock. ResNet-20 runs with its maps on an emulated board, over 3 Mbaud.
    """
    from pimchip.workflows.bench_link import FULL, QUICK, bench_link

    with reply.stages() as tell:
        found = bench_link(QUICK if quick else FULL, reply.seed, tell, firmware=not python)
    for part in _link_tables(found):
        reply.show(part)
    if quick:
        reply.show("--quick: sizes are too small to compare these with anything")
    reply.done({**found, "quick": quick})


@command.command("infer", cls=Command)
@click.option("--images", type=click.IntRange(1), help="Images in this process.  [default: 600]")
@click.option("--python", is_flag=True, help="Over TCP to the Python server, even where the C twin can be built.")
@click.option("--quick", is_flag=True, help="Small sizes and few repetitions: to see that it runs, not to compare.")
@command_options
def infer(reply: Reply, *, images: int | None, python: bool, quick: bool) -> None:
    """What inference takes beside the chip: ResNet-20 in this process against its kernels alone, and over TCP.

    The kernels alone are the calls that one run makes of them, made again, in turns with the whole. Over loopback TCP to the
    C firmware's host twin, the processor time of both ends says where the time goes.
    """
    from dataclasses import replace

    from pimchip.workflows.bench_infer import FULL, QUICK, bench_infer

    sizes = QUICK if quick else FULL
    with reply.stages() as tell:
        found = bench_infer(replace(sizes, images=images or sizes.images), reply.seed, tell, firmware=not python)
    low, high = found["kernel_ratio_range"]
    slow, fast = found["images_per_second_range"]
    rows = [
        ["in this process, images a second", f"{found['images_per_second']:,.0f} ({slow:,.0f} to {fast:,.0f})"],
        ["  time over that of the kernels alone", f"{found['kernel_ratio']:.2f} x ({low:.2f} to {high:.2f})"],
        [f"over TCP to the {found['device']}, images a second", f"{found['tcp_images_per_second']:,.1f}"],
        ["  board's processor at work", f"{100 * found['tcp_board_share']:.0f} % of the time"],
        ["  host's processor at work", f"{100 * found['tcp_host_share']:.1f} % of the time"],
        ["  same integers as in this process", "yes" if found["tcp_same_logits"] else "NO"],
    ]
    title = f"{found['model']}: {found['images']} random images here, {found['tcp_images']} over TCP"
    reply.show(table(title, ["", "median (lowest to highest)"], rows))
    reply.show(f"{found['cpu']}, {found['cores']} cores; {found['threads']} threads; torch {found['torch']}.")
    if quick:
        reply.show("--quick: sizes are too small to compare these with anything")
    reply.done({**found, "quick": quick}, ok=found["tcp_same_logits"])


@command.command("compile", cls=Command)
@click.option("--chip", multiple=True, help="A chip; may be given again.  [default: the three built-in chips]")
@click.option("--quick", is_flag=True, help="Small networks only: to see that it runs.")
@command_options
def compile_(reply: Reply, *, chip: tuple[str, ...], quick: bool) -> None:
    """Time of compilation, and residency passes against the proven lower bound, on the model zoo and on growing layers."""
    from pimchip.workflows.bench_compile import CHIPS, MODELS, QUICK_MODELS, QUICK_WIDTHS, WIDTHS, bench_compile

    models = QUICK_MODELS if quick else MODELS
    with reply.stages() as tell:
        found = bench_compile(models, chip or CHIPS, QUICK_WIDTHS if quick else WIDTHS, tell)
    for name, by_key in found["chips"].items():
        rows = [
            [
                model,
                f"{by_key['seconds'][model]:.2f}",
                str(by_key["passes"][model]),
                str(by_key["bound"][model]),
                f"{by_key['utilization_of_bound'][model]:.3f}",
                str(by_key["tiles"][model]),
                "-" if by_key["break_even_batch"][model] is None else f"{by_key['break_even_batch'][model]:,}",
            ]
            for model in models
        ]
        columns = ["", "seconds", "passes", "bound", "bound / passes", "tiles", "break-even batch"]
        reply.show(table(name, columns, rows))
    rows = [
        [
            f"{g['weights']:,}",
            f"{g['seconds']:.2f}",
            f"{1e6 * g['seconds'] / g['weights']:.2f}",
            "-" if g["peak_bytes"] is None else f"{g['peak_bytes'] / MEGA:,.0f}",
            f"{g['passes']:,}",
        ]
        for g in found["growth"]
    ]
    columns = ["weights", "seconds", "seconds a million", "MB beside the network", "passes"]
    reply.show(table(f"two square layers on {found['chip']}", columns, rows))
    reply.done(found)


def _link_tables(found: dict[str, Any]) -> list[Any]:
    """One table for people, and what stands behind it."""
    paced = [
        [f"share of {found['line_baud'] / MEGA:g} Mbaud used, {latency} ms each way", f"{share:.1%}"]
        for latency, share in found["line_fraction"].items()
    ]
    paced += [
        [f"  as deploy programs and verifies {what}, {latency} ms", f"{share:.1%}"]
        for what, name in (("as much in tiles", "line_fraction_large"), ("all of sram65", "line_fraction_tiles"))
        for latency, share in found[name].items()
    ]
    low, high = found["loopback_bytes_per_second_range"]
    middle = found["loopback_bytes_per_second"]
    rows = [
        *paced,
        [f"loopback TCP to the {found['loopback_device']}, MB/s", f"{middle / MEGA:.1f} ({low / MEGA:.1f} to {high / MEGA:.1f})"],
        ["  host memory beside the data, kB", f"{found['host_memory_bytes'] / 1e3:,.0f}"],
        ["  the window, kB", f"{found['window_bytes'] / 1e3:,.0f}"],
        ["ResNet-20, bytes an image", f"{found['resnet20_bytes_per_image']:,.0f}"],
        [f"  seconds an image at {found['resnet20_baud'] / MEGA:g} Mbaud", f"{found['resnet20_seconds_per_image']:.4f}"],
        [f"  beside that each batch, kB ({found['resnet20_passes']} passes)", f"{found['resnet20_bytes_per_batch'] / 1e3:,.0f}"],
        ["  and seconds", f"{found['resnet20_seconds_per_batch']:.2f}"],
    ]  # fmt: skip
    missing = found["loopback_twin_missing"]
    return [
        table(f"{found['line_bytes']:,} bytes programmed", ["", ""], rows),
        "Shares count payload alone: framing and round trips are against us. The emulated board takes no time.",
        *([f"No C twin: {missing}."] if missing else []),
        f"{found['cpu']}, {found['cores']} cores.",
    ]


def _ratio(found: dict[str, Any], name: str, kind: str) -> str:
    if kind not in found[name]:
        return ""
    low, high = found[f"{name}_range"][kind]
    return f"{found[name][kind]:.2f} ({low:.2f}-{high:.2f})"


def _tables(found: dict[str, Any]) -> list[Any]:
    """Three tables for people."""
    tile = [["emulated die", _rate(found), "curves and noise of each converter, bit-exact"]]
    tile.append(["naive torch", _rate(found, "naive_torch_"), "matmul, randn, round, clamp"])
    for name, peer in found["peers"].items():
        tile.append([name, "-" if peer["conversions_per_second"] is None else _rate(peer), peer["note"]])
    title = f"reference tile: {found['vectors']} vectors x {found['rows']} rows x {found['columns']} columns"
    rows = [
        ["as many conversions a second as naive torch", _times(found, "naive_torch_ratio")],
        ["matrix product, then conversions, over both fused", _times(found, "serial_fraction")],
        *_scaling(found),
        ["ResNet-20, images a second", _spread(found, "resnet20_images_per_second")],
        ["  float32 in torch", _spread(found, "resnet20_float_images_per_second")],
        ["  time of the emulated over float32", _times(found, "resnet20_float_ratio")],
        *(
            [f"  peak memory, {_images(batch)} at once, MiB", f"{peak / MEBI:,.0f}"]
            for batch, peak in found["peak_memory_bytes_by_batch"].items()
        ),
        ["compiling the kernel, once on a machine, CPU s", _spread(found, "compile_seconds")],
        [f"memory after 10 and {found['dies']} dies, MiB", _memory(found)],
    ]
    return [
        table(title, ["", "million conversions/s", ""], tile),
        table("", ["", "median (lowest to highest)"], rows),
        "Fused: above 1, one pass takes less time than matrix product and conversions one after the other.",
        f"ResNet-20: {_images(found['resnet20_images'], found['resnet20_data'])}; weights {found['resnet20_weights']}.",
        f"{found['cpu']}, {found['cores']} cores; {found['threads']} threads; torch {found['torch']}.",
    ]


def _scaling(found: dict[str, Any]) -> list[list[str]]:
    """How time grows over all sizes, and over the largest of them where those are fewer."""
    sizes = [point["conversions"] for point in found["scaling"]]
    rows = [[f"time of {sizes[0]:,} to {sizes[-1]:,} conversions grows to the power", f"{found['scaling_slope']:.3f}"]]
    if found["scaling_slope_largest_from"] > sizes[0]:
        rows.append(
            [f"  of {found['scaling_slope_largest_from']:,} and more alone", f"{found['scaling_slope_largest']:.3f}"]
        )
    return rows


def _images(count: int | str, of: str = "") -> str:
    noun = "image" if int(count) == 1 else "images"
    return f"{count} {of} {noun}" if of else f"{count} {noun}"


def _rate(found: dict[str, Any], prefix: str = "") -> str:
    name = f"{prefix}conversions_per_second"
    low, high = found[f"{name}_range"]
    return f"{found[name] / MEGA:,.1f} ({low / MEGA:,.1f} to {high / MEGA:,.1f})"


def _spread(found: dict[str, Any], name: str, unit: str = "") -> str:
    if found[name] is None:
        return "not measured"
    low, high = found[f"{name}_range"]
    return f"{found[name]:,.3g}{unit} ({low:,.3g} to {high:,.3g})"


def _times(found: dict[str, Any], name: str) -> str:
    return _spread(found, name, " x")


def _memory(found: dict[str, Any]) -> str:
    held = (found["rss_after_10_dies_bytes"], found["rss_after_dies_bytes"])
    return " and ".join("unknown" if value is None else f"{value / MEBI:,.0f}" for value in held)
