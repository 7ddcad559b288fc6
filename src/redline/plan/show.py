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
    out = Console(soft_wrap=True)
    memory = f"{machine.memory / 1e9:.0f} GB"
    if machine.gpus == 0:
        where = f"this CPU with {memory}"
    elif machine.gpus == 1:
        where = f"1 GPU of {memory}"
    else:
        where = f"{machine.gpus} GPUs of {memory}"
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
    notes: dict[str, None] = {}
    for stages in plans.values():
        for stage in stages:
            notes.update(dict.fromkeys(stage.notes))
    for note in notes:
        out.print(f"Note: {note}.", highlight=False, markup=False)
    for stage in list(plans.values())[-1]:
        if stage.name in changes:
            _advise(out, stage, changes[stage.name], machine)


def _memory(plans: dict[str, list[Stage]], machine: Machine) -> Table:
    names, columns = [], []
    for way, stages in plans.items():
        for stage in stages:
            names.append(f"{stage.name}\n{way}")
            columns.append(stage)
    table = Table(
        "GB on each" if machine.gpus > 1 else "GB",
        *names,
        box=None,
        pad_edge=False,
        caption_justify="left",
        caption="total: the highest phase, since not all parts are held at once",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for part in ORDER:
        sizes = [_gb(stage.parts.get(part)) for stage in columns]
        if any(sizes):
            table.add_row(part, *sizes)
    table.add_section()
    highest, totals, fits = [], [], []
    for stage in columns:
        highest.append(max(stage.phases, key=stage.phases.__getitem__))
        totals.append(f"[bold]{_gb(stage.total)}[/]")
        fits.append("yes" if stage.total <= machine.room else "[bold red]no[/]")
    table.add_row("highest phase", *highest)
    table.add_row("[bold]total[/]", *totals)
    table.add_row("fits", *fits)
    return table


def _time(stages: list[Stage], machine: Machine, price: float | None) -> Table:
    table = Table("time", "seconds", "steps", "hours", box=None, pad_edge=False)
    if price is not None:
        table.add_column("cost")
    total = 0.0
    for stage in stages:
        hours = stage.hours
        total += hours or 0.0
        row = [f"{stage.name}, {stage.step}", f"{stage.seconds:.3g}"]
        if hours is None:
            row += ["?", "?", "?"]
        else:
            row += [str(stage.steps), f"{hours:.2f}", _cost(hours, machine, price)]
        table.add_row(*row[: len(table.columns)])
    row = ["[bold]all[/]", "", "", f"{total:.2f}", _cost(total, machine, price)]
    table.add_row(*row[: len(table.columns)])
    if any(stage.steps is None for stage in stages):
        table.caption, table.caption_justify = "?: the edits are not a file here; give --edits N", "left"
    return table


def _cost(hours: float, machine: Machine, price: float | None) -> str:
    """What so many hours cost on all processes; empty without a price."""
    return "" if price is None else f"{hours * price * machine.processes:,.2f}"


def _advise(out: Console, stage: Stage, changes: list[JsonObject], machine: Machine) -> None:
    """What to change where a stage does not fit."""
    room = machine.room
    if stage.total <= room:
        return
    out.print(
        f"[bold red]{stage.name} does not fit[/]: {_gb(stage.total)} GB of {_gb(room)} GB "
        f"({room / machine.memory:.0%} of the memory). Change, one after the other:",
        highlight=False,
    )
    fits = False
    for change in changes:
        fits = change["fits"]
        ending = ", fits" if fits else ""
        out.print(f"  {change['change']}: {_gb(change['bytes'])} GB{ending}", highlight=False, markup=False)
    if not fits:
        out.print(
            "  and still it does not fit: shorter responses or prompts (policy.sampling.max_new_tokens, "
            "data.max_*_tokens), a smaller model, or more memory.",
            highlight=False,
        )


def _gb(size: float | None) -> str:
    if not size:
        return ""
    return f"{size / 1e9:.2f}" if size < 99.5e9 else f"{size / 1e9:.0f}"
