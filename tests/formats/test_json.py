"""json: the contract, Python's own reader as oracle, files that others reformatted."""

from multiframe_ckpt.formats.json import JsonFormat
from multiframe_ckpt.testing import FormatContract


class TestContract(FormatContract):
    format = JsonFormat()
