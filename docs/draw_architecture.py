"""Draws ``architecture.svg``, the picture of docs/architecture.md: ``python docs/draw_architecture.py``."""

from __future__ import annotations

import itertools
from html import escape
from pathlib import Path

FLOORS = (
    ("9", "__main__"),
    ("8", "cli"),
    ("7", "interactive · contracts · the public door"),
    ("6", "operations · runs"),
    ("5", "checkpoint · testing"),
    ("4", "formats · backends/*"),
    ("3", "storage · pickle · training · backend"),
    ("2", "tree · registry · terminal"),
    ("1", "dtypes · errors · progress · forks"),
)
#: Each walk: its colour, what is handed in, and the stops: floor, what is done there, what comes back.
WALKS = (
    (
        "Checkpoint.open(path)",
        "#1b6ca8",
        (
            (5, "Checkpoint.open", "Checkpoint"),
            (4, "open_path: Head, Format.open", "Opened"),
            (3, "open_file, ZipReader, PickleMachine", "File"),
            (2, "LazyTensor over InFile", "Tree"),
        ),
    ),
    (
        "convert(source, target)",
        "#b5541c",
        (
            (6, "operations.convert", "ConvertReport"),
            (5, "Checkpoint.open, Checkpoint.plan", "PlannedSave"),
            (4, "Format.open, Format.plan", "Plan"),
            (3, "training: dialects; storage: staged, copy", "bytes written"),
            (2, "rules: select, cast, rename", "Tree"),
        ),
    ),
    (
        "manager.save(epoch, model)",
        "#3b7d3b",
        (
            (6, "CheckpointManager, Writer, snapshot", "path"),
            (5, "capture(RunState), plan_save", "PlannedSave"),
            (4, "WritableFormat.plan, Plan.write", "Plan"),
            (3, "Backend.to_tree; staged, links", "bytes written"),
            (2, "LazyTensor over live memory", "Tree"),
        ),
    ),
)
ROW, TOP, LEFT, COLUMN, STOP = 84, 90, 310, 300, 250


def main() -> None:
    """Write the picture beside this file."""
    height, width = TOP + ROW * len(FLOORS) + 20, LEFT + COLUMN * len(WALKS) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="DejaVu Sans, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *(line for row, floor in enumerate(FLOORS) for line in drawn_floor(row, *floor, width)),
        *(line for column, walk in enumerate(WALKS) for line in drawn_walk(column, *walk)),
        "</svg>",
    ]
    Path(__file__).with_name("architecture.svg").write_text("\n".join(parts) + "\n", "utf-8")


def drawn_floor(row: int, number: str, rooms: str, width: int) -> list[str]:
    """Return a floor as a band with its number and rooms."""
    top = TOP + ROW * row
    shade = "#f6f6f4" if row % 2 else "#ececea"
    return [
        f'<rect x="0" y="{top}" width="{width}" height="{ROW}" fill="{shade}"/>',
        text(16, top + 48, number, size=20, weight="bold"),
        text(46, top + 48, rooms, size=12.5),
    ]


def drawn_walk(column: int, title: str, colour: str, stops: tuple[tuple[int, str, str], ...]) -> list[str]:
    """Return a walk: its stops from the top down, what is called drawn solid, what comes back dashed."""
    left = LEFT + COLUMN * column
    parts = [text(left + STOP / 2, 50, title, size=15, weight="bold", colour=colour, anchor="middle")]
    boxes = [(TOP + ROW * (9 - floor) + 18, *words) for floor, *words in stops]
    for (top, _, _), (below, _, result) in itertools.pairwise(boxes):
        parts += [
            arrow(left + 40, top + 46, below, colour, dashed=False),
            arrow(left + STOP - 40, below, top + 46, colour, dashed=True),
            text(left + STOP - 48, (top + 46 + below) / 2 + 4, result, size=10.5, colour=colour, anchor="end"),
        ]
    for top, words, _ in boxes:
        parts += [
            f'<rect x="{left}" y="{top}" width="{STOP}" height="46" rx="6" fill="white" stroke="{colour}" '
            'stroke-width="1.6"/>',
            text(left + STOP / 2, top + 28, words, size=11.5, anchor="middle"),
        ]
    first = boxes[0]
    parts.append(arrow(left + 40, 60, first[0], colour, dashed=False))
    parts.append(arrow(left + STOP - 40, first[0], 60, colour, dashed=True))
    parts.append(text(left + STOP - 48, 82, first[2], size=10.5, colour=colour, anchor="end"))
    return parts


def arrow(x: float, start: float, end: float, colour: str, *, dashed: bool) -> str:
    """Return a vertical arrow."""
    step = 7 if end > start else -7
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    head = f"M{x - 4} {end - step} L{x} {end} L{x + 4} {end - step}"
    return (
        f'<path d="M{x} {start} L{x} {end}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>'
        f'<path d="{head}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    )


def text(
    x: float, y: float, words: str, *, size: float, weight: str = "normal", colour: str = "#222", anchor: str = "start"
) -> str:
    """Return a line of text."""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


if __name__ == "__main__":
    main()
