"""The part of the demo that runs in real OneFlow: ``demo_oneflow.py DIRECTORY DIGITS.npz``.

It imports OneFlow and nothing of multiframe_ckpt: the directory is read by ``flow.load`` as one that OneFlow saved. Prints
one line of JSON: OneFlow's version, and how many of the digits the network names right.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict

import numpy as np
import oneflow as flow
from oneflow import nn


def main(directory: str, digits: str) -> None:
    """Load the directory into the demo's network and count its right answers."""
    model = nn.Sequential(
        OrderedDict(
            l1=nn.Linear(784, 128), relu1=nn.ReLU(), l2=nn.Linear(128, 64), relu2=nn.ReLU(), l3=nn.Linear(64, 10)
        )
    )
    model.load_state_dict(flow.load(directory))
    with np.load(digits) as held_out, flow.no_grad():
        answers = model(flow.tensor(held_out["images"])).argmax(dim=1).numpy()
        right = int((answers == held_out["labels"]).sum())
    print(json.dumps({"oneflow": flow.__version__, "right": right}))


if __name__ == "__main__":
    main(*sys.argv[1:])
