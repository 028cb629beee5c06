"""The lines that a terminal shows while a run trains."""

import io
import re

import pytest
from rich.console import Console

from bfn.training.progress import Position, progress

LOG = [{"step": 40, "validation_bits": 2.5}]


def last_line(steps, seconds, positions, log=LOG, width=80):
    """The last line of a terminal after a run at these positions, which it reached after as many seconds."""
    now = [0.0]
    terminal = {"force_terminal": True, "color_system": "standard", "width": width, "_environ": {}}
    console = Console(file=io.StringIO(), get_time=lambda: now[0], **terminal)
    with progress(console, steps, seconds) as show:
        for at in positions:
            now[0] = at.seconds
            show(at, log)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    return re.split(r"[\r\n]+", text.strip())[-1]


def pace(steps, seconds, start=0):
    """Positions on the way to this number of steps and of seconds."""
    return [Position(start + round(steps * i / 10), seconds * i / 10, best=2.25) for i in range(11)]


@pytest.mark.parametrize(
    ("limits", "positions", "shown", "left"),
    [
        ((1000, None), pace(400, 20), "step  400/1000", "0:00:30"),
        ((1000, float("inf")), pace(400, 20), "step  400/1000", "0:00:30"),
        ((1000, 225.0), pace(30, 90), "second  90/225", "0:02:15"),
        ((1000, 7300.0), pace(100, 100), "step  100/1000", "0:15:00"),  # steps end it, in spite of a limit of seconds
        ((1000, 50.0), pace(20, 51), "second 50/50", "0:00:00"),  # validated after the last second
        ((3000, None), pace(400, 20, start=2000), "step 2400/3000", "0:00:30"),  # the run was continued
        ((1000, 50.0), [], "", ""),
        ((1000, 50.0), [Position()], "second  0/50", "-:--:--"),
    ],
)
def test_the_bar_counts_what_will_end_the_run_and_shows_the_time_left(limits, positions, shown, left):
    line = last_line(*limits, positions)
    if not positions:
        assert line == ""
        return
    counted, rest = re.fullmatch(r"(.*?) [━╸╺]+ (.*)", line).groups()
    best = "2.250" if len(positions) > 1 else "inf"
    assert (counted, rest) == (shown, f"{left} left, validation 2.500 bits, best {best}")


def test_a_bar_fits_a_terminal_of_80_columns_and_begins_without_a_bound():
    line = last_line(100_000, None, pace(12_345, 999))
    assert len(line) <= 80 and line.endswith("left, validation 2.500 bits, best 2.250") and "━" in line
    assert last_line(100, None, pace(5, 1), log=[]).endswith("left, validation ...")
