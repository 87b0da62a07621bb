"""The picture of a benchmark: a row a case, a panel a measure, a dot the median ratio to ours, a line its quartiles."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: no screen is needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLORS = ("#1b6ca8", "#d1603d", "#5a8f3c", "#7d5ba6")
_ROW = 0.34  # inches
_HEADING = 1.2  # rows that a size takes as heading


def draw(document: dict[str, Any], path: Path) -> None:
    """Draws a document of ``harness.save`` as PNG."""
    rows = rows_of(document["outcomes"])
    places, headings, depth = placed(rows)
    measures = document["measures"]
    figure, panels = plt.subplots(
        1, len(measures), figsize=(4 + 3.2 * len(measures), 1.9 + _ROW * depth), sharey=True, squeeze=False
    )
    colors = dict(zip(dict.fromkeys(peer["series"] for _, peers in rows for peer in peers), COLORS, strict=False))
    for axes, (measure, title) in zip(panels[0], measures.items(), strict=True):
        for place, (_, peers) in zip(places, rows, strict=True):
            for number, peer in enumerate(peers):
                dot(axes, place + 0.32 * (number - (len(peers) - 1) / 2), peer, measure, colors[peer["series"]])
        finish(axes, title, depth)
    panels[0][0].set_yticks(places, [f"{first['case']}   {peers[0]['contender']}" for first, peers in rows])
    for place, size in headings:
        panels[0][0].annotate(
            size, (0, place), xycoords=("axes fraction", "data"), xytext=(-6, 0), textcoords="offset points",
            ha="right", va="center", weight="bold", annotation_clip=False,
        )  # fmt: skip
    legend = [Line2D([], [], color=color, marker="o", label=name) for name, color in colors.items()]
    figure.legend(handles=legend, loc="lower left", ncol=len(legend), frameon=False, bbox_to_anchor=(0.005, 0.0))
    figure.suptitle(f"{document['benchmark']}: what the peer takes, as a multiple of ours", weight="bold", y=0.995)
    machine = document["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['file_system']}, load {machine['load_average']}"
    figure.text(
        0.995, 0.008, f"{where}; rounds: {document['rounds']}; dots are medians, lines quartiles",
        ha="right", va="bottom", size=8, color="#555555",
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.5 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def rows_of(outcomes: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Gives each case's first outcome with its peers': ours opens a case."""
    rows: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for outcome in outcomes:
        if outcome["series"] == "ours":
            rows.append((outcome, []))
        else:
            rows[-1][1].append(outcome)
    return rows


def placed(rows: list[tuple[dict[str, Any], Any]]) -> tuple[list[float], list[tuple[float, str]], float]:
    """Gives the height of every row, of every size's heading, and of all together, counted from the top."""
    places: list[float] = []
    headings: list[tuple[float, str]] = []
    depth = 0.0
    for size, members in groupby(rows, key=lambda row: row[0]["size"]):
        headings.append((depth + 0.7 * _HEADING, size))
        depth += _HEADING
        for _ in members:
            places.append(depth + 0.5)
            depth += 1
    return places, headings, depth


def dot(axes: Axes, place: float, peer: dict[str, Any], measure: str, color: str) -> None:
    ratio = peer["ratio_to_ours"][measure]
    axes.plot([ratio["low"], ratio["high"]], [place, place], color=color, linewidth=1.6, solid_capstyle="butt")
    axes.plot(ratio["median"], place, "o", color=color, markersize=4.5)
    # At the panel's edge, so that numbers stand in a column and hide no dot.
    axes.annotate(
        f"{ratio['median']:.2g}" if ratio["median"] < 10 else f"{ratio['median']:.0f}", (1, place),
        xycoords=("axes fraction", "data"), xytext=(-3, 0), textcoords="offset points",
        ha="right", va="center", size=6.5, color=color,
    )  # fmt: skip


def finish(axes: Axes, title: str, depth: float) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    # Room for the column of numbers on the right, and both sides of 1 in sight.
    axes.set_xlim(min(low, 0.45), max(high, 2.2) ** 1.22)
    axes.axvspan(1, axes.get_xlim()[1], color="#eef4ea", zorder=0)
    axes.axvline(1, color="#888888", linewidth=1, zorder=1)
    wide = axes.get_xlim()[1] / axes.get_xlim()[0] > 300  # three labels a decade would run into each other
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylim(depth, 0)
    axes.set_title(f"{title}\nours is better →", size=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
