"""The end of a run in the terminal: did it win, at what price, and what does it write now?"""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from redline.data.records import as_text
from redline.data.show import visible
from redline.report.folder import RunFolder
from redline.report.sanity import headline, is_shown, sanity
from redline.types import Config, JsonObject

SAMPLES = 3
LONGEST = 400  # characters of a text


def print_summary(run: Path, page: Path, console: Console | None = None) -> None:
    """Print a run's end on stdout: win rate with its 95 % interval, KL, perplexity, distinct bigrams,
    samples, the page's path.

    ``SAMPLES`` prompts are drawn at random with the run's seed, so that every report shows the same ones.
    Text is printed as it is: neither markup nor terminal commands in it do anything.
    """
    console, folder = console or Console(highlight=False, soft_wrap=True), RunFolder(run)
    result = folder.json(folder.files.winrate)
    console.print()
    if result is None:
        console.print(Text(f"{folder.name}: no comparison yet ({folder.files.winrate.name} is not there)."))
    else:
        console.print(_headline(result))
        console.print(_guards(result))
        for line in sanity(folder):
            console.print(Text.assemble(("! ", "bold yellow"), visible(line)), soft_wrap=True)
        for row in folder.drawn(folder.verdicts(), SAMPLES):
            console.print(_sample(row))
    console.print(Text.assemble("the page: ", (visible(str(page)), "bold")), soft_wrap=True)


def _headline(result: JsonObject) -> Text:
    low, high = result["ci95"]
    good = ""
    if is_shown(result):
        good = "bold green" if low > 0.5 else "bold red"
    rate = (f"{result['win_rate']:.3f}", good)
    start = (f"{headline(result)}: ", "win rate over the model it started from ")
    return Text.assemble(
        *start,
        rate,
        f"  (95 % interval {low:.3f} to {high:.3f})\n",
        (
            f"{result['wins']} wins, {result['ties']} ties, {result['losses']} losses on {result['n']} "
            f"held-out prompts, judged by {visible(str(result['judge']))}",
            "dim",
        ),
    )


def _guards(result: JsonObject) -> Table:
    """KL, perplexity and distinct bigrams, before and after, as far as they were measured."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, side in (("", "left"), ("before", "right"), ("after", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    if "perplexity_a" in result:
        table.add_row(
            "perplexity under the reference", f"{result['perplexity_b']:.1f}", f"{result['perplexity_a']:.1f}"
        )
    if "text" in result:
        before, after = result["text"]["b"], result["text"]["a"]
        table.add_row(
            "distinct bigrams", f"{before['distinct_bigrams']:.3f}", f"{after['distinct_bigrams']:.3f}"
        )
    if "kl" in result:
        kl = f"{result['kl']:z.1f}"
        if result.get("kl_error") is not None:
            kl += f" ± {result['kl_error']:.1f}"
        table.add_row("KL from the reference, nats a response", "0", kl)
    return table


def _sample(row: JsonObject) -> Text:
    return Text.assemble(
        ("\n" + _in_one_line(row["prompt"]), "bold"),
        (f"  ({_verdict(row.get('preference'))})\n", "dim"),
        ("before  ", "red"),
        _in_one_line(row["b"]),
        "\n",
        ("after   ", "green"),
        _in_one_line(row["a"]),
        "\n",
    )


def _verdict(preference: float | None) -> str:
    """The judge's verdict in a word, seen from the policy."""
    if preference is None:
        return "no verdict"
    if preference == 0.5:
        return "a tie"
    return "won" if preference > 0.5 else "lost"


def _in_one_line(text: Config) -> str:
    """A prompt or response without line breaks, cut after ``LONGEST`` characters."""
    line = visible(" ".join(as_text(text).split()))
    if len(line) > LONGEST:
        return line[:LONGEST] + " …"
    return line
