"""Times `CustomTrainer` beside `model.fit` and beside loops by hand: a table, a CSV, a chart.

The sides of a row are called in turn, in the same process, once unmeasured and then `--rounds`
times; medians count. Compare only what ran in turn: machines have quieter and busier moments.

    python examples/benchmarks                          # all rows
    python examples/benchmarks --list                   # their names
    python examples/benchmarks --rows mlp-arrays lstm-tfdata --rounds 3
    python examples/benchmarks --readme README.md       # puts the table between its markers
"""

import argparse
import difflib
import importlib.util
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # counts only before TensorFlow is imported
HERE = pathlib.Path(__file__).resolve().parent
if not __package__:
    sys.path[0] = str(HERE.parent)  # the folder is run as a script: its modules are a package's

# ruff: noqa: E402
from benchmarks import table
from benchmarks.rows import ROWS


def parsed():
    """Returns the arguments of the command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="rows to measure (default: all)")
    parser.add_argument("--list", action="store_true", help="tell the names of the rows, and end")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=HERE.parent / "output" / "benchmarks",
        metavar="FOLDER",
        help="where benchmark.csv and benchmark.png go (default: output/benchmarks, in examples)",
    )
    parser.add_argument(
        "--readme",
        type=pathlib.Path,
        metavar="FILE",
        help=f"put the table between {' and '.join(table.MARKERS)} in this file, too",
    )
    args = parser.parse_args()
    args.rows = args.rows or list(ROWS)
    for name in args.rows:
        if name not in ROWS:
            near = difflib.get_close_matches(name, ROWS, n=1, cutoff=0)
            parser.error(f"--rows: there is no {name!r}; the nearest is {near[0]!r} (see --list).")
    if args.rounds < 1:
        parser.error(f"--rounds takes a number from 1 on, but got {args.rounds}.")
    if args.readme and not args.readme.is_file():
        parser.error(f"--readme: there is no file {str(args.readme)!r}.")
    if args.readme and not table.has_place(args.readme.read_text(encoding="utf-8")):
        begin, end = table.MARKERS
        parser.error(f"--readme: {str(args.readme)!r} needs one line {begin} and one {end} below.")
    if not args.list and importlib.util.find_spec("matplotlib") is None:
        parser.error("the chart needs matplotlib: pip install matplotlib.")
    return args


def main():
    """Measures the rows, and prints the line of each as soon as it is there."""
    args = parsed()
    if args.list:
        for row in ROWS.values():
            print(f"{row.name:22}{row.what}")
        return
    from benchmarks.chart import write_chart

    args.output.mkdir(parents=True, exist_ok=True)
    lines, shown = [], [table.head(args.rounds)]
    print(shown[0], flush=True)
    for name in args.rows:
        for line in ROWS[name].lines(args.rounds):
            lines.append(line)
            shown.append(table.markdown(line))
            print(shown[-1], flush=True)
            table.write_csv(args.output / "benchmark.csv", lines)
    write_chart(args.output / "benchmark.png", lines)
    if args.readme:
        text = args.readme.read_text(encoding="utf-8")
        args.readme.write_text(table.put_into(text, "\n".join(shown)), encoding="utf-8")
    print(f"The table and the chart are in {args.output}.")


if __name__ == "__main__":
    main()
