"""Makes the data set of ``train_unet.py``: ``make_train_h5.py`` writes ``train_256.h5``, ``--size 64`` ``train_64.h5``.

The images are three photographs that ship in PyPI packages: a flower and a temple in scikit-learn, which the network is
trained on, and a portrait in matplotlib, which it is tested on. The mask of each marks what is brighter than the
photograph's own Otsu threshold (Otsu 1979): computed, not drawn by a person. A square tile is cut every 64 pixels, so
that large ones overlap.

The file has the groups ``train`` and ``test``, each with ``images``, uint8 (N, 3, size, size), and ``masks``, uint8 (N, 1,
size, size) of 0 and 1; the attribute ``source`` names the photographs.
"""

from __future__ import annotations

import argparse
from importlib.resources import as_file, files
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

STEP = 64
PHOTOGRAPHS = {
    "train": (("sklearn.datasets", "images/flower.jpg"), ("sklearn.datasets", "images/china.jpg")),
    "test": (("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),),
}


def main() -> None:
    """Write the data set and say what is in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=256, help="the side of a tile in pixels; default 256")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default train_SIZE.h5")
    arguments = parser.parse_args()
    output = arguments.output or Path(f"train_{arguments.size}.h5")
    with h5py.File(output, "w") as file:
        for name, photographs in PHOTOGRAPHS.items():
            images, masks = tiles(photographs, arguments.size)
            group = file.create_group(name)
            group.create_dataset("images", data=images, compression="gzip")
            group.create_dataset("masks", data=masks, compression="gzip")
            group.attrs["source"] = [f"{package}: {path}" for package, path in photographs]
            print(f"{output}: {name} has {len(images)} tiles, {masks.mean():.0%} of their pixels marked")


def tiles(photographs: tuple[tuple[str, str], ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the tiles of all photographs, and of their masks."""
    images, masks = [], []
    for package, path in photographs:
        with as_file(files(package) / path) as file:
            photograph = Image.open(file).convert("RGB")
        gray = np.asarray(photograph.convert("L"))
        images += cut(np.asarray(photograph).transpose(2, 0, 1), size)
        masks += cut((gray > otsu_threshold(gray))[None].astype(np.uint8), size)
    return np.stack(images), np.stack(masks)


def cut(planes: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the tiles of (C, height, width) planes."""
    _, height, width = planes.shape
    corners = ((y, x) for y in range(0, height - size + 1, STEP) for x in range(0, width - size + 1, STEP))
    return [planes[:, y : y + size, x : x + size] for y, x in corners]


def otsu_threshold(gray: np.ndarray) -> int:
    """Return the gray level that parts a uint8 image into two classes with the greatest variance between them."""
    counts = np.bincount(gray.ravel(), minlength=256).astype(float)
    below, mass = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    between = (mass[-1] * below / below[-1] - mass)[:-1] ** 2
    weight = (below * (below[-1] - below))[:-1]
    return int(np.argmax(np.divide(between, weight, out=np.zeros_like(between), where=weight > 0)))


if __name__ == "__main__":
    main()
