"""The ratios as a picture."""

from matplotlib.figure import Figure

TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def write_chart(path, lines):
    """Writes a bar for each line that has a ratio, and a mark where its target is, as PNG."""
    lines = [line for line in lines if line.ratio is not None]
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for place, line in enumerate(lines):
        axes.barh(place, line.ratio - 1, left=1, color=_color(line))
        axes.annotate(
            f"{line.ratio:.2f}",
            (max(line.ratio, 1), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        if line.target is not None:
            axes.plot([line.target] * 2, [place - 0.4, place + 0.4], color="black")
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(lines)), [line.name for line in lines])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.1)
    least, most = axes.get_xlim()
    shown = [tick for tick in TICKS if least <= tick <= most]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("times as fast as Keras (black: target; orange: target or limit missed)")
    figure.savefig(path, dpi=120)


def _color(line):
    return "tab:orange" if line.reached is False else "tab:blue"
