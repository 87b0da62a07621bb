"""A small model's epochs, saved by a manager, and what lies in its folder then."""

import os

import numpy as np


def weights(value=0.0):
    return {"l1.weight": np.full((3, 4), value, np.float32), "l1.bias": np.full(3, value, np.float32)}


def save_epochs(manager, losses, first=0):
    """Saves an epoch for each loss; its weights are the epoch's number."""
    for epoch, loss in enumerate(losses, first):
        manager.save(epoch, weights(epoch), loss=loss)


def epochs_of(manager):
    return [record.epoch for record in manager.checkpoints()]


def names_in(folder):
    return sorted(os.listdir(folder))
