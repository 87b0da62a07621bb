"""hdf5: the contract, h5py as oracle, files that lead elsewhere."""

from multiframe_ckpt.formats.hdf5 import Hdf5Format
from multiframe_ckpt.testing import FormatContract


class TestContract(FormatContract):
    format = Hdf5Format()
    notices_every_flip = True
