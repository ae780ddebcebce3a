"""A picture of what was measured: the ratios at every shape and, where it was measured, the growth."""

import math
from types import ModuleType
from typing import Any


def pyplot() -> ModuleType:
    """Return `matplotlib.pyplot`.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("--plot needs matplotlib: pip install -e '.[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def draw(results: list[dict[str, Any]], path: str) -> None:
    """Draw the results of all workers into a file whose ending says the format."""
    panels = []
    for result in results:
        for table in result["tables"]:
            if table["name"] in ("training", "forward", "growth"):
                panels.append(table)
    if not panels:
        raise SystemExit("--plot draws the subjects 'steps' and 'growth', and neither was measured")
    growth = [panel for panel in panels if panel["name"] == "growth"]
    ratios = [panel for panel in panels if panel["name"] != "growth"]
    plt = pyplot()
    columns = 2 if len(panels) > 1 or growth else 1
    count = len(ratios) + 3 * len(growth)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(6.5 * columns, 3.6 * rows), squeeze=False, layout="constrained")
    spots = iter(axes.flat)
    for panel in ratios:
        _draw_ratios(next(spots), panel)
    for panel in growth:
        for quantity in ("T", "B", "H"):
            _draw_growth(next(spots), panel["records"], quantity)
    for spot in spots:
        spot.axis("off")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_ratios(axes: Any, table: dict[str, Any]) -> None:
    records = [record for record in table["records"] if record.get("ratio")]
    shapes = list(dict.fromkeys(record["shape"] for record in records))
    peers = list(dict.fromkeys(record["program"] for record in records))
    width = 0.8 / max(1, len(peers))
    for k, peer in enumerate(peers):
        heights = {record["shape"]: record["ratio"] for record in records if record["program"] == peer}
        places = [place + (k - (len(peers) - 1) / 2) * width for place in range(len(shapes))]
        # From 1 up or down, since on a logarithmic axis a bar has no other foot.
        tops = [heights.get(shape, 1.0) - 1 for shape in shapes]
        bars = axes.bar(places, tops, width, bottom=1, label=peer)
        labels = [f"{heights[shape]:.2f}" if shape in heights else "" for shape in shapes]
        axes.bar_label(bars, labels, fontsize=7, padding=1)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    ticks = [0.5, 1, 2, 5, 10, 20]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0.5, 1.5 * max([2.0, *(record["ratio"] for record in records)]))
    axes.set_xticks(range(len(shapes)), shapes)
    axes.set_ylabel("jlstm is … x as fast")
    axes.set_title(table["title"], fontsize=10)
    axes.legend(fontsize=7, ncols=4, loc="upper right")


def _draw_growth(axes: Any, records: list[dict[str, Any]], quantity: str) -> None:
    chosen = [record for record in records if record["quantity"] == quantity]
    sizes, times = [r["size"] for r in chosen], [1e3 * r["seconds"] for r in chosen]
    axes.loglog(sizes, times, marker="o", label="jlstm")
    axes.loglog(sizes, [times[-1] * size / sizes[-1] for size in sizes], "--", color="grey", label="linear")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(pyplot().LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel(quantity)
    axes.set_ylabel("ms a training step")
    axes.set_title(f"Growth with {quantity}, around shakespeare", fontsize=10)
    axes.legend(fontsize=7)
