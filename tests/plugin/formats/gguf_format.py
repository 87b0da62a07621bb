"""A third party's format that is only read: GGUF 2 and 3, as ggml's docs/gguf.md has it, but for quantised weights."""

from struct import Struct

from multiframe_ckpt.contracts import Format, FormatError, LazyTensor, Opened, dtype_named, parsing, require_file

SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
DTYPES = {0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16"}


class GgufFormat(Format):
    """The weights of llama.cpp that are not quantised."""

    name = "gguf"
    suffixes = (".gguf",)

    def recognises(self, head):
        return head.start.startswith(b"GGUF")

    def open(self, place, options):
        header = Header(require_file(place, self))
        with parsing(place.where):
            if header.take("4s") != b"GGUF" or header.take("I") not in (2, 3):
                raise ValueError("another header than that of versions 2 and 3")
            count, entries = header.take("Q"), header.take("Q")
            metadata = {header.text(): header.value(header.take("I")) for _ in range(entries)}
            outlines = {header.text(): header.outline() for _ in range(count)}
            data = header.offset + -header.offset % metadata.get("general.alignment", 32)
            tree = {name: header.tensor(name, data, *outline) for name, outline in outlines.items()}
        return Opened(tree, metadata={key: value for key, value in metadata.items() if isinstance(value, str)})


class Header:
    def __init__(self, file):
        self.file, self.offset = file, 0

    def take(self, form):
        layout = Struct(f"<{form}")
        self.offset += layout.size
        return layout.unpack(self.file.read_at(self.offset - layout.size, layout.size, "header"))[0]

    def text(self):
        return self.take(f"{self.take('Q')}s").decode()

    def value(self, kind):
        if kind != LIST:
            return self.text() if kind == TEXT else self.take(SCALARS[kind])
        kind, count = self.take("I"), self.take("Q")
        return [self.value(kind) for _ in range(count)]

    def outline(self):
        shape = [self.take("Q") for _ in range(self.take("I"))]
        return tuple(reversed(shape)), self.take("I"), self.take("Q")

    def tensor(self, name, data, shape, kind, offset):
        if kind not in DTYPES:
            raise FormatError(f"{self.file.where}: {name}: found GGML type {kind}, expected one that is not quantised")
        return LazyTensor.in_file(self.file, dtype_named(DTYPES[kind]), shape, data + offset, what=name)
