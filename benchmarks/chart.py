"""The picture of a benchmark: a block a case, a row a contender; dots are medians, lines run from least to most.

Ours has one colour, whatever the format. A hollow dot is the same with everything flushed to the disk. A benchmark with
``fits`` in its results is drawn as curves over size instead.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: no screen is needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLORS = {"ours": "#d1603d", "peer": "#5f7285", "limit": "#111111"}
_ROW = 0.21  # inches
_LEAST_BAR = 0.1
_MEMORY = ("anonymous_bytes", ("peak anonymous memory over idle", 1e-6, "MB"))
#: Measure → title, factor, unit.
_BARS = {"next_step_ratio": ("the next step, as a multiple of an ordinary one", 1.0, "×"), **dict([_MEMORY])}
_FORMAT_COLORS = {"torch": "#d1603d", "oneflow": "#e0a23c", "safetensors": "#8c4a63"}

Row = list[dict[str, Any]]  # the outcomes of one contender: plain, durable, or both


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw the results of a benchmark as PNG."""
    figure = draw_growth(document) if document.get("fits") else draw_cases(document)
    machine = document["machine"]
    size = "" if document["scale"] == "full" else f"; {document['scale']} scale"
    figure.text(
        0.99, 0.06 / figure.get_figheight(),
        f"{machine['cpu']}, {machine['cores']} cores, {machine['file_system']}{size}",
        ha="right", va="bottom", size=7, color="#555555",
    )  # fmt: skip
    figure.savefig(path, dpi=120)
    plt.close(figure)


def rows_of(outcomes: list[dict[str, Any]]) -> list[Row]:
    """Return the outcomes of each contender together, the fastest contender first."""
    rows: dict[tuple[str, Any], Row] = {}
    for outcome in outcomes:
        if "measured" in outcome:
            rows.setdefault((outcome["contender"], outcome["digest"]), []).append(outcome)
    return sorted(rows.values(), key=lambda row: row[0]["measured"]["seconds"]["median"])


def draw_cases(document: dict[str, Any]) -> Figure:
    keys = ("case", "workload", "cache")
    blocks = [
        (names, rows_of(list(found)))
        for names, found in groupby(document["outcomes"], key=lambda outcome: tuple(outcome[key] for key in keys))
    ]
    blocks = [(names, rows) for names, rows in blocks if rows]
    heights = [len(rows) + 2.6 for _, rows in blocks]
    figure, panels = plt.subplots(
        len(blocks), 2, figsize=(11, 1 + _ROW * sum(heights)), squeeze=False,
        gridspec_kw={"height_ratios": heights, "width_ratios": (3, 1.2)}, layout="constrained",
    )  # fmt: skip
    figure.get_layout_engine().set(rect=(0, 0.3 / figure.get_figheight(), 1, 1 - 0.6 / figure.get_figheight()))
    for (names, rows), (times, bars) in zip(blocks, panels, strict=True):
        draw_times(times, rows)
        if names[1] == "nothing":
            bars.set_visible(False)  # other processes were timed
        else:
            draw_bars(bars, rows)
        size = document["workload_bytes"].get(names[1])
        what = f"{names[0]}, {names[1]} ({say_size(size)})" if size else names[0]
        times.set_title(what + (", cold cache" if names[2] == "cold" else ""), size=9, weight="bold", loc="left")
    legend = [Line2D([], [], color=color, marker="o", linestyle="", label=kind) for kind, color in COLORS.items()]
    legend.append(Line2D([], [], color="#777777", marker="o", mfc="white", linestyle="", label="flushed to the disk"))
    figure.legend(handles=legend, loc="upper right", ncol=4, frameon=False, fontsize=8)
    figure.suptitle(f"{document['benchmark']}: seconds, lower is better", weight="bold", size=11, x=0.01, ha="left")
    return figure


def draw_times(axes: Axes, rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        color = COLORS[row[0]["kind"]]
        for outcome in row:
            seconds = outcome["measured"]["seconds"]
            axes.plot([seconds["min"], seconds["max"]], [place, place], color=color, linewidth=1.4, alpha=0.7)
            fill = "white" if outcome["durable"] else color
            axes.plot(seconds["median"], place, "o", color=color, mfc=fill, markersize=4.5)
        axes.annotate(
            say_seconds(row[0]["measured"]["seconds"]["median"]), (1, place), xycoords=("axes fraction", "data"),
            xytext=(-2, 0), textcoords="offset points", ha="right", va="center", size=6.5, color=color,
        )  # fmt: skip
    finish(axes, rows)
    axes.set_yticks(range(len(rows)), [say_row(row) for row in rows], fontsize=7.5)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(COLORS[row[0]["kind"]])
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** 0.12)  # room for the numbers
    wide = high / low > 200  # three labels a decade would run into each other
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: say_seconds(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_bars(axes: Axes, rows: list[Row]) -> None:
    """Draw, beside the times, the first of the other measures that was taken."""
    measure, (title, scale, unit) = next(
        (each for each in _BARS.items() if any(each[0] in row[0]["measured"] for row in rows)), _MEMORY
    )
    axes.set_title(title, size=8, loc="left")
    for place, row in enumerate(rows):
        found = row[0]["measured"].get(measure)
        if found is not None and row[0]["kind"] != "limit":
            value = max(found["median"] * scale, _LEAST_BAR)
            axes.barh(place, value, height=0.6, color=COLORS[row[0]["kind"]], alpha=0.85)
            said = f" {value:,.3g} {unit}" if value < 10 else f" {value:,.0f} {unit}"
            axes.annotate(
                said if value > _LEAST_BAR else f" ≤ {_LEAST_BAR} {unit}", (value, place), va="center", size=6.5
            )
    finish(axes, rows)
    axes.set_yticks([])
    axes.set_xscale("log")
    axes.set_xlim(_LEAST_BAR, max(axes.get_xlim()[1], 10) * 6)
    axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def finish(axes: Axes, rows: list[Row]) -> None:
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def say_row(row: Row) -> str:
    return row[0]["contender"] + {None: "", True: ", digest", False: ", no digest"}[row[0]["digest"]]


def say_seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def say_size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def draw_growth(document: dict[str, Any]) -> Figure:
    """Draw a curve a job and format, over the number of tensors on one side and over bytes on the other."""
    titles = {"tensors": "number of tensors (of 1 KB)", "bytes": "bytes (in 292 tensors)"}
    jobs = list(dict.fromkeys(fit["case"] for fit in document["fits"]))
    figure, panels = plt.subplots(
        len(jobs), 2, figsize=(10, 0.7 + 2.4 * len(jobs)), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(rect=(0, 0.3 / figure.get_figheight(), 1, 1 - 0.35 / figure.get_figheight()))
    for job, row in zip(jobs, panels, strict=True):
        for (kind, title), axes in zip(titles.items(), row, strict=True):
            for fit in document["fits"]:
                if (fit["case"], fit["over"]) == (job, kind):
                    label = f"{fit['contender']}: exponent {fit['exponent']:.2f}"
                    color = _FORMAT_COLORS[fit["contender"].rpartition(" ")[2]]
                    axes.plot(fit["sizes"], fit["seconds"], "o-", color=color, markersize=4, linewidth=1.3, label=label)
            axes.set(xscale="log", yscale="log")
            axes.set_title(f"{job}: seconds over {title}", size=9, loc="left")
            axes.legend(frameon=False, fontsize=7.5)
            axes.grid(color="#e2e2e2", linewidth=0.6)
            axes.tick_params(labelsize=7)
            low, high = axes.get_ylim()
            axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 200 else (1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: say_seconds(value)))
            axes.yaxis.set_minor_formatter(NullFormatter())
    figure.suptitle("growth: an exponent of 1 is linear", weight="bold", size=11, x=0.01, ha="left")
    return figure
