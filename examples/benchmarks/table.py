"""The table: as Markdown, in a README, as CSV."""

import csv
import os
import platform
import re
import statistics
from datetime import date
from importlib.metadata import version
from pathlib import Path

MARKERS = "<!-- benchmark -->", "<!-- /benchmark -->"
HEADINGS = (
    "row",
    "what",
    "Keras",
    "trainer",
    "Keras / trainer",
    "target",
    "best by hand",
    "trainer / best",
    "limit",
    "reached",
)
COLUMNS = (
    "row",
    "what",
    "unit",
    "rounds",
    *(f"{side}_{number}" for side in ("keras", "trainer") for number in ("median", "min", "max")),
    "ratio",
    "target",
    "by_hand",
    *(f"by_hand_{number}" for number in ("median", "min", "max")),
    "trainer_by_hand",
    "limit",
    "reached",
)


def surroundings():
    """Returns what the measurements depend on, by name."""
    return {
        "machine": f"{cpu()}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        "TensorFlow": version("tensorflow"),
        "Keras": version("keras"),
        "NumPy": version("numpy"),
        "date": date.today().isoformat(),
    }


def cpu():
    """Returns the name of the processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def head(rounds):
    """Returns what stands above the lines, as Markdown."""
    facts = "; ".join(f"{name} {value}" for name, value in surroundings().items())
    return "\n".join(
        [
            f"{facts}; {rounds} in turn: the median, in parentheses the least and the most.",
            "",
            _cells(HEADINGS),
            _cells(["---"] * len(HEADINGS)),
        ]
    )


def markdown(line):
    """Returns a `Line` as a line of Markdown."""
    keras, trainer, by_hand = line.measured
    best = line.best_by_hand
    return _cells(
        [
            line.name,
            line.what,
            _measured(keras, line.unit),
            _measured(trainer, line.unit),
            _factor(line.ratio),
            _bound("≥", line.target),
            f"{_measured(by_hand[best], line.unit)}, {best}" if best else "",
            _factor(line.beside_hand),
            _bound("≤", line.limit),
            {True: "yes", False: "**no**", None: ""}[line.reached],
        ]
    )


def write_csv(path, lines):
    """Writes lines as CSV, below comments with what the measurements depend on."""
    with path.open("w", newline="", encoding="utf-8") as file:
        for name, value in surroundings().items():
            file.write(f"# {name}: {value}\n")
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for line in lines:
            keras, trainer, by_hand = line.measured
            best = line.best_by_hand
            writer.writerow(
                [
                    line.name,
                    line.what,
                    line.unit,
                    len(trainer),
                    *_summary(keras),
                    *_summary(trainer),
                    line.ratio,
                    line.target,
                    best,
                    *_summary(by_hand.get(best)),
                    line.beside_hand,
                    line.limit,
                    {True: "yes", False: "no", None: ""}[line.reached],
                ]
            )


def has_place(text):
    """Returns whether a README has a place for the table: one pair of markers, in order."""
    begin, end = MARKERS
    return text.count(begin) == text.count(end) == 1 and text.index(begin) < text.index(end)


def put_into(text, table):
    """Returns the text of a README with the table between its markers, and nothing else changed."""
    begin, end = MARKERS
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"


def _cells(values):
    return f"| {' | '.join(values)} |"


def _summary(values):
    """Returns median, least and most, or nothing thrice."""
    return (statistics.median(values), min(values), max(values)) if values else (None,) * 3


def _measured(values, unit):
    if not values:
        return ""
    if unit == "s" and statistics.median(values) < 0.1:
        values, unit = [1000 * value for value in values], "ms"
    median, least, most = map(_digits, _summary(values))
    return f"{median} {unit} ({least}–{most})"


def _digits(value):
    """Returns a number with three digits, or as many as stand before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _factor(value):
    return "" if value is None else f"{value:.2f}"


def _bound(sign, value):
    return "" if value is None else f"{sign} {value:g}"
