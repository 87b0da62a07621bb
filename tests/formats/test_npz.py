"""npz: the contract, NumPy as oracle, hostile archives."""

from multiframe_ckpt.formats.npz import NpzFormat
from multiframe_ckpt.testing import FormatContract


class TestContract(FormatContract):
    format = NpzFormat()
    notices_every_flip = True
