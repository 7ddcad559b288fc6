"""The plan in the terminal: one table of memory, one of time, and what to change."""

from rich.console import Console
from rich.table import Table

from redline.plan.memory import Machine, Stage
from redline.types import JsonObject

ORDER = (
    "libraries",
    "weights",
    "gathered layers",
    "gathered policy",
    "reference copy",
    "reward model",
    "gradients",
    "DDP buckets",
    "optimizer",
    "lower states",
    "KV cache",
    "activations",
    "logits",
    "heap",
)


def show(
    facts: JsonObject,
    plans: dict[str, list[Stage]],
    changes: dict[str, list[JsonObject]],
    machine: Machine,
    price: float | None,
) -> None:
    """Print it to stdout."""
    out = Console()
    where = (
        f"{machine.gpus} GPU{'s' * (machine.gpus > 1)} of {machine.memory / 1e9:.0f} GB"
        if machine.gpus
        else f"this CPU with {machine.memory / 1e9:.0f} GB"
    )
    out.print(
        f"[bold]{facts['model']}[/] on {where}; prompts of {facts['prompt_tokens']} tokens, responses as "
        "long as the recipe lets them be. An estimate: nothing was run.",
        highlight=False,
    )
    out.print(_memory(plans, machine))
    out.print(_time(next(iter(plans.values())), machine, price))
    out.print(
        f"Time is rough, to a factor of two: {machine.flops / 1e12:.3g} TFLOPS and "
        f"{machine.bandwidth / 1e9:.0f} GB/s ({facts['speed_is']}).",
        highlight=False,
    )
    for note in dict.fromkeys(note for stages in plans.values() for stage in stages for note in stage.notes):
        out.print(f"Note: {note}.", highlight=False, markup=False)
    for name, found in changes.items():
        _advise(
            out, name, next(stage for stage in list(plans.values())[-1] if stage.name == name), found, machine
        )


def _memory(plans: dict[str, list[Stage]], machine: Machine) -> Table:
    columns = [(way, stage) for way, stages in plans.items() for stage in stages]
    table = Table(
        "GB on each" if machine.gpus > 1 else "GB",
        *(f"{stage.name}\n{way}" for way, stage in columns),
        box=None,
        pad_edge=False,
        caption_justify="left",
        caption="total: the highest phase, since not all parts are held at once",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for part in ORDER:
        if any(stage.parts.get(part) for _, stage in columns):
            table.add_row(part, *(_gb(stage.parts.get(part)) for _, stage in columns))
    table.add_section()
    table.add_row("highest phase", *(max(stage.phases, key=stage.phases.__getitem__) for _, stage in columns))
    table.add_row("[bold]total[/]", *(f"[bold]{_gb(stage.total)}[/]" for _, stage in columns))
    table.add_row(
        "fits", *("yes" if stage.total <= machine.room else "[bold red]no[/]" for _, stage in columns)
    )
    return table


def _time(stages: list[Stage], machine: Machine, price: float | None) -> Table:
    table = Table(
        "time",
        "seconds",
        "steps",
        "hours",
        *(["cost"] if price is not None else []),
        box=None,
        pad_edge=False,
    )
    total = 0.0
    for stage in stages:
        hours = stage.hours
        total += hours or 0.0
        table.add_row(
            f"{stage.name}, {stage.step}",
            f"{stage.seconds:.3g}",
            "?" if stage.steps is None else str(stage.steps),
            "?" if hours is None else f"{hours:.2f}",
            *(
                []
                if price is None
                else ["?" if hours is None else f"{hours * price * machine.processes:,.2f}"]
            ),
        )
    table.add_row(
        "[bold]all[/]",
        "",
        "",
        f"{total:.2f}",
        *([] if price is None else [f"{total * price * machine.processes:,.2f}"]),
    )
    if any(stage.steps is None for stage in stages):
        table.caption, table.caption_justify = "?: the edits are not a file here; give --edits N", "left"
    return table


def _advise(out: Console, name: str, stage: Stage, found: list[JsonObject], machine: Machine) -> None:
    room = machine.room
    if stage.total <= room:
        return
    out.print(
        f"[bold red]{name} does not fit[/]: {_gb(stage.total)} GB of {_gb(room)} GB "
        f"({room / machine.memory:.0%} of the memory). Change, one after the other:",
        highlight=False,
    )
    for line in found:
        out.print(
            f"  {line['change']}: {_gb(line['bytes'])} GB{', fits' if line['fits'] else ''}",
            highlight=False,
            markup=False,
        )
    if not found or not found[-1]["fits"]:
        out.print(
            "  and still it does not fit: shorter responses or prompts (policy.sampling.max_new_tokens, "
            "data.max_*_tokens), a smaller model, or more memory.",
            highlight=False,
        )


def _gb(size: float | None) -> str:
    return "" if not size else f"{size / 1e9:.2f}" if size < 99.5e9 else f"{size / 1e9:.0f}"
