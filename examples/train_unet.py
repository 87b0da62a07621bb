"""Trains a small UNet to mark what is bright in photographs, and keeps the run so that it can be picked up again.

    make_train_h5.py --size 64
    train_unet.py --h5 train_64.h5 --epochs 4 --save_freq 2
    train_unet.py --h5 train_64.h5 --epochs 8 --resume

The folder fills with ``checkpoint_epoch_0000.pth`` and its kind, and the pointers ``latest_checkpoint.pth`` and
``best_model.pth``. A run that was stopped and resumed ends with the very weights of one that was not. Without the
optimizer in its checkpoints (``--no_save_optimizer``) it does not, and the files are a third as large: both sizes are said.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import torch
from torch import nn
from torch.nn import functional

import multiframe_ckpt as mfc

BATCH = 4


def main() -> None:
    """Train, keep the run, and say how large a checkpoint is with and without the optimizer."""
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    train, test = (read(arguments.h5, name) for name in ("train", "test"))
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with mfc.CheckpointManager(
        arguments.output_dir,
        save_optimizer=not arguments.no_save_optimizer,
        save_freq=arguments.save_freq,
        monitor="dice",
        mode="max",
    ) as manager:
        first = 0
        if arguments.resume:
            first = manager.resume(model=model, optimizer=optimizer, which=arguments.resume).epoch
        for epoch in range(first, arguments.epochs):
            loss = train_epoch(model, optimizer, LOSSES[arguments.loss], *train)
            metrics = {"loss": loss, "dice": tested(model, *test)}
            print(f"epoch {epoch}: {arguments.loss} loss {loss:.4f}, Dice on the portrait {metrics['dice']:.3f}")
            last = epoch == arguments.epochs - 1
            saved = manager.save(epoch, model, optimizer, metrics=metrics, train_args=arguments, force=last)
            if saved:
                print(f"  saved {saved.name}, {saved.stat().st_size:,} bytes")
        best = manager.best()
    print(f"best is {best.path.name}" if best else "nothing was saved")
    for kept, size in checkpoint_sizes(model, optimizer).items():
        print(f"a checkpoint {kept} the optimizer: {size:,} bytes")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--h5", type=Path, default=Path("train_256.h5"), help="the data set; default train_256.h5")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs", "unet"), help="default outputs/unet")
    parser.add_argument(
        "--epochs", type=int, default=4, help="how many in all, those before a resume counted; default 4"
    )
    parser.add_argument(
        "--save_freq", type=int, default=1, metavar="N", help="save every N epochs, and the last; default 1"
    )
    parser.add_argument("--loss", choices=LOSSES, default="hybrid", help="default hybrid: focal and Dice")
    parser.add_argument("--no_save_optimizer", action="store_true", help="leave the optimizer out of the checkpoints")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="WHICH",
        help="go on from latest (the default), best, an epoch, or a file",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order of the tiles; default 0")
    return parser.parse_args()


def read(path: Path, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images of a group, in 0 to 1, and its masks, both float32."""
    with h5py.File(path) as file:
        images, masks = file[name]["images"][:], file[name]["masks"][:]
    return torch.from_numpy(images).float() / 255, torch.from_numpy(masks).float()


class UNet(nn.Module):
    """Two steps down, two up, each with the features of its level beside it (Ronneberger et al. 2015)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = block(3, width), block(width, 2 * width)
        self.bottom = block(2 * width, 4 * width)
        self.up2, self.up1 = block(6 * width, 2 * width), block(3 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return a logit a pixel, (N, 1, height, width); the sides must be divisible by 4."""
        one = self.down1(images)
        two = self.down2(functional.max_pool2d(one, 2))
        deep = self.bottom(functional.max_pool2d(two, 2))
        two = self.up2(torch.cat([functional.interpolate(deep, scale_factor=2), two], dim=1))
        one = self.up1(torch.cat([functional.interpolate(two, scale_factor=2), one], dim=1))
        return self.head(one)


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def focal_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the focal loss with gamma 2 (Lin et al. 2017): pixels that are plain already count for little."""
    each = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    return ((1 - torch.exp(-each)) ** 2 * each).mean()


def dice(shares: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return how far marks and masks agree, 0 to 1: twice what both hold over the sum of what each holds."""
    return (2 * (shares * masks).sum() + 1) / (shares.sum() + masks.sum() + 1)


def hybrid_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    return focal_loss(logits, masks) + 1 - dice(torch.sigmoid(logits), masks)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "focal": focal_loss,
    "bce": functional.binary_cross_entropy_with_logits,
    "hybrid": hybrid_loss,
}


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    masks: torch.Tensor,
) -> float:
    """Go through the tiles once, in an order drawn from torch's generator; return the mean loss."""
    model.train()
    total = 0.0
    for tiles in torch.randperm(len(images)).split(BATCH):
        loss = loss_of(model(images[tiles]), masks[tiles])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(tiles)
    return total / len(images)


def tested(model: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        marks = torch.cat([model(some) > 0 for some in images.split(BATCH)])
    return dice(marks.float(), masks).item()


def checkpoint_sizes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Return the bytes of a checkpoint file with the optimizer and without."""
    sizes = {}
    with TemporaryDirectory() as folder:
        for kept, held in {"with": optimizer, "without": None}.items():
            path = Path(folder, f"{kept}.pth")
            mfc.Checkpoint.from_run(model=model, optimizer=held, epoch=0).save(path)
            sizes[kept] = path.stat().st_size
    return sizes


if __name__ == "__main__":
    main()
