"""The shipped suites, subclassed as a plugin's author would; test_formats.py runs them where the plugins are installed."""

from struct import pack

import numpy as np

from multiframe_ckpt.contracts import LazyTensor
from multiframe_ckpt.formats import format_named
from multiframe_ckpt.testing import FormatContract, ReadOnlyFormatContract


def text(value):
    return pack("<Q", len(value.encode())) + value.encode()


def gguf(arrays, alignment=32):
    """The bytes of a file as llama.cpp writes it, with entries of every kind."""
    entries = [
        text("general.architecture") + pack("<I", 8) + text("llama"),
        text("general.alignment") + pack("<II", 4, alignment),
        text("tokenizer.tokens") + pack("<IIQ", 9, 8, 2) + text("<s>") + text("é"),
        text("scores") + pack("<IIQ3f", 9, 6, 3, 1, 2, 3),
        text("rope.scaled") + pack("<I?", 7, True),
    ]
    header = b"GGUF" + pack("<IQQ", 3, len(arrays), len(entries)) + b"".join(entries)
    data = b""
    for name, (kind, array) in arrays.items():
        data += bytes(-len(data) % alignment)
        header += text(name) + pack("<I", array.ndim) + pack(f"<{array.ndim}Q", *reversed(array.shape))
        header += pack("<IQ", kind, len(data))
        data += array.tobytes()
    return header + bytes(-len(header) % alignment) + data


class TestGguf(ReadOnlyFormatContract):
    format = format_named("gguf")

    def samples(self, folder):
        arrays = {
            "blk.0.weight": (0, np.float32([[1, -2, 3], [4, 5, 6]])),
            "count": (27, np.array([7, 8])),
            "empty": (1, np.zeros((0, 3), "f2")),
        }
        for alignment in (32, 8):
            path = folder / f"sample{alignment}.gguf"
            path.write_bytes(gguf(arrays, alignment))
            yield path, {name: LazyTensor.from_array(array) for name, (_, array) in arrays.items()}


class TestNpyFolder(FormatContract):
    format = format_named("npydir")
