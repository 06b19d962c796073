"""A plan as a person reads it on a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

GIB = 2**30
FEW = 12
"""Rows of collectives that are shown; the JSON has them all."""


def print_model(console: Console, plan: dict[str, Any]) -> None:
    """Parameters and FLOPs, which do not depend on where it runs."""
    parameters, flops = plan["parameters"], plan["flops_per_sample"]
    table = Table("parameters")
    table.add_column("total", justify="right")
    table.add_column("trainable", justify="right")
    for module, counts in [*parameters["modules"].items(), ("all", parameters)]:
        table.add_row(module, *(f"{counts[kind]:,}" for kind in ("total", "trainable")))
    console.print(table)
    table = Table("a sample")
    table.add_column("GFLOP", justify="right")
    rows = {
        "forward pass (act, one observation)": "analytic",
        "training step": "training",
        "  recomputed in the backward pass": "recomputed",
        "  untouched by what trains (frozen parts)": "frozen",
    }
    for label, key in rows.items():
        table.add_row(label, f"{flops[key] / 1e9:,.3f}")
    console.print(table)
    for place in flops["uncounted"]:
        console.print(f"It is more than that: {place} is not counted whole.", highlight=False)


def print_pod(console: Console, plan: dict[str, Any]) -> None:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    console.print(
        f"\n[bold]{plan['topology']}[/bold]: {plan['chips']} chips as {mesh}, batch {plan['batch_size']:,}",
        highlight=False,
    )
    _print_memory(console, plan)
    for one in plan["replicated"][:3]:
        console.print(
            f"every chip along {one['axis']} holds all of {one['path']} ({one['why']}): {one['bytes'] / 1e6:,.1f} MB",
            highlight=False,
        )
    if len(plan["replicated"]) > 3:
        rest = plan["replicated"][3:]
        console.print(f"and of {len(rest)} smaller ones: {sum(one['bytes'] for one in rest) / 1e6:,.1f} MB")
    if "seconds_bound" in plan:
        _print_collectives(console, plan)
        _print_bounds(console, plan)


def _print_memory(console: Console, plan: dict[str, Any]) -> None:
    memory = plan["hbm_bytes_per_chip"]
    table = Table("memory of a chip")
    table.add_column("GiB", justify="right")
    names = ("parameters", "optimizer", "ema", "frozen", "temporaries", "outputs", "code", "total", "limit")
    for name in names:
        if name in memory and (memory[name] or name in ("parameters", "temporaries")):
            table.add_row(name, f"{memory[name] / GIB:,.3f}")
    console.print(table)
    spare = memory["limit"] - memory["total"]
    word = (
        f"[green]fits[/green], {spare / GIB:,.2f} GiB to spare"
        if plan["fits"]
        else (f"[red]does not fit[/red], by {-spare / GIB:,.2f} GiB")
    )
    console.print(word, highlight=False)


def _print_collectives(console: Console, plan: dict[str, Any]) -> None:
    table = Table("between chips, a step", "over", "where", "phase", "type")
    for name in ("GB", "times", "ms"):
        table.add_column(name, justify="right")
    rows = plan["collectives"]
    for one in rows[:FEW]:
        numbers = (f"{one['bytes'] / 1e9:,.3f}", f"{one['count']:,}", f"{one['seconds'] * 1e3:,.2f}")
        table.add_row(one["kind"], one["axes"], one["group"], one["phase"], one["dtype"], *numbers)
    if rest := rows[FEW:]:
        numbers = (
            f"{sum(one['bytes'] for one in rest) / 1e9:,.3f}",
            f"{sum(one['count'] for one in rest):,}",
            f"{sum(one['seconds'] for one in rest) * 1e3:,.2f}",
        )
        table.add_row(f"{len(rest)} more", "", "", "", "", *numbers)
    console.print(table)
    reduction = plan["gradient_reduction"]
    if total := sum(reduction.values()):
        console.print(
            f"gradients: {total / 1e9:,.2f} GB reduced, {reduction['reduce_scatter'] / total:.1%} of it scattered",
            highlight=False,
        )
    for text in plan["unaccounted"]:
        console.print(f"[red]not accounted for[/red]: {text}", highlight=False)


def _print_bounds(console: Console, plan: dict[str, Any]) -> None:
    flops, bounds = plan["flops_per_step_per_chip"], plan["seconds_bound"]
    difference = flops["compiled"] / flops["analytic"] - 1 if flops["analytic"] else 0.0
    console.print(
        f"FLOPs of a chip a step: {flops['compiled'] / 1e12:,.3f} T compiled, {flops['analytic'] / 1e12:,.3f} T by the "
        f"model ({difference:+.2%})",
        highlight=False,
    )
    table = Table("at best, a step")
    table.add_column("ms", justify="right")
    for name, seconds in bounds.items():
        table.add_row(f"{name}{' (binds)' if name == plan['binding'] else ''}", f"{seconds * 1e3:,.2f}")
    console.print(table)
    (low, high), (slow, fast) = plan["mfu_bound"], plan["samples_per_second_per_chip"]
    console.print(
        f"MFU at most {low:.0%} (nothing overlaps) to {high:.0%} (all does); "
        f"{slow:,.2f} to {fast:,.2f} samples/s a chip",
        highlight=False,
    )
    _print_epoch(console, plan["epoch"])
    console.print(
        f"compiled in {plan['compile_seconds']:,.0f} s ({plan['compile_cpu_seconds']:,.0f} s of CPU), "
        f"{plan['peak_host_bytes'] / GIB:.2f} GiB of this host's memory",
        highlight=False,
    )


def _print_epoch(console: Console, epoch: dict[str, Any]) -> None:
    low, high = epoch["run_chip_hours"]
    console.print(
        f"the run's {epoch['run_samples']:,} samples: at least {low:,.0f} to {high:,.0f} chip-hours", highlight=False
    )
    if epoch["chip_hours"] is not None:
        low, high = epoch["chip_hours"]
        console.print(
            f"an epoch of {epoch['samples']:,} steps: at least {low:,.1f} to {high:,.1f} chip-hours", highlight=False
        )
    else:
        names = ", ".join(epoch["unindexed"][:3]) + (", ..." if len(epoch["unindexed"]) > 3 else "")
        console.print(
            f"an epoch: unknown, for {len(epoch['unindexed'])} datasets of the mixture are not indexed here ({names}); "
            "python -m data_pipelines index, then --data.root and --data.cache",
            highlight=False,
        )


def print_sweep(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table("data", "fsdp", "tensor", "remat")
    for name in ("GiB a chip", "compute ms", "memory ms", "links ms", "samples/s a chip"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in rows:
        sizes = dict(zip(one["options"][::2], one["options"][1::2]))
        mesh = [sizes[f"--mesh.{axis}"] for axis in ("data", "fsdp", "tensor")]
        remat = "+".join(sorted({value for key, value in sizes.items() if key.endswith(".remat")}))
        memory, numbers = one.get("hbm_bytes_per_chip"), [""] * 4
        if bounds := one.get("seconds_bound"):
            numbers = [f"{seconds * 1e3:,.1f}" for seconds in bounds.values()]
            numbers.append("{:,.2f} to {:,.2f}".format(*one["samples_per_second_per_chip"]))
        size = f"{memory['total'] / GIB:,.2f}" if memory else ""
        table.add_row(*mesh, remat, size, *numbers, one.get("reason", ""))
    console.print(table)
