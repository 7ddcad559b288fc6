"""Changed runs made fit for labels: whole characters and numbers (or words), short kept stretches filled."""

from collections.abc import Callable

from redline.data.alignment import Cut
from redline.label.side import Side


def widened(cuts: list[Cut], rejected: Side, edited: Side) -> list[Cut]:
    """The runs made as much longer as it takes for each to begin and end where a label may, on both sides.

    What lies between two runs is the same on both sides, so both grow by the same kept tokens; runs that meet
    become one.
    """
    wider: list[Cut] = []
    for place, cut in enumerate(cuts):
        start, end, edited_start, edited_end = cut
        first = wider[-1].end if wider else 0
        last = cuts[place + 1].start if place + 1 < len(cuts) else len(rejected.ids)
        while start > first and not (rejected.may_end_before(start) and edited.may_end_before(edited_start)):
            start, edited_start = start - 1, edited_start - 1
        while end < last and not (rejected.may_end_before(end) and edited.may_end_before(edited_end)):
            end, edited_end = end + 1, edited_end + 1
        if wider and start == first:
            before = wider.pop()
            start, edited_start = before.start, before.edited_start
        wider.append(Cut(start, end, edited_start, edited_end))
    return wider


def filled(cuts: list[Cut], is_short: Callable[[Cut, Cut], bool]) -> list[Cut]:
    """The runs, each two with a short kept stretch between them made one."""
    joined = cuts[:1]
    for cut in cuts[1:]:
        before = joined[-1]
        if is_short(before, cut):
            joined[-1] = Cut(before.start, cut.end, before.edited_start, cut.edited_end)
        else:
            joined.append(cut)
    return joined
