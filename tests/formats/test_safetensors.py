"""safetensors: the contract, the real library as oracle, hostile headers."""

from multiframe_ckpt.dtypes import DTYPES
from multiframe_ckpt.formats.safetensors import SafetensorsFormat
from multiframe_ckpt.testing import FormatContract


class TestContract(FormatContract):
    format = SafetensorsFormat()
    dtypes = tuple(row for row in DTYPES if row.safetensors)
    notices_every_flip = True
