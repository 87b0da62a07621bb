"""The ``meta`` file of a OneFlow variable: protobuf text of ``VariableMetaInfo``, read strictly and written exactly.

    message VariableMetaInfo { required ShapeProto shape = 2; required DataType data_type = 3; }
    message ShapeProto       { repeated int64 dim = 1; }

OneFlow writes it one way and reads all that protobuf's text format allows: any order and spacing, ``<…>`` for ``{…}``,
``dim: [2, 3]``, hexadecimal and octal numbers, enum numbers, ``,`` and ``;`` after a field, ``#`` comments. A missing
shape is a 0-d tensor. Unknown or repeated fields are errors. docs/formats/oneflow.md has the bytes.

What the format cannot say stands in one comment line of ours, ``# multiframe_ckpt {json}``, which protobuf ignores.
Source: OneFlow 0.9 ``variable_meta_info.proto``, ``data_type.proto``; protobuf 3.20 ``text_format.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from ...dtypes import DTYPES, INT8, DType, dtype_named
from ...errors import DamagedError
from ...tree.digests import XXH3_PATTERN, digest_of_bytes, is_digest

__all__ = ["MAX_META_NBYTES", "Comment", "VariableMeta", "parse_canonical", "parse_meta", "render_meta"]

#: A meta file is under a few hundred bytes, with the longest path in our comment 25 kB; one above this is no meta file.
MAX_META_NBYTES = 1 << 16

_TOKEN = re.compile(
    r"(?:\s|#[^\n]*(?:\n|\Z))*(?:([A-Za-z_]\w*)|(-?(?:0[xX][0-9a-fA-F]+|\d+)\b)|([{}<>\[\]:,;])|$)", re.ASCII
)
_COMMENT = re.compile(r"^# multiframe_ckpt (\{.*\})\r?$", re.MULTILINE)
#: What OneFlow and this library write of most tensors: to recognise it takes a tenth of the time of the parsers. The few
#: dimensions bound what is kept of them.
_CANONICAL = re.compile(
    r"shape \{\n((?:  dim: (?:0|[1-9][0-9]{0,17})\n){0,8})\}\ndata_type: (k[A-Za-z0-9]+)\n"
    r'(?:# multiframe_ckpt \{"index": (0|[1-9][0-9]{0,17}), "count": (0|[1-9][0-9]{0,17})'
    r'(?:, "digest": "(%s)")?(?:, "dtype": "([a-z0-9_]+)")?(?:, "tied": "([ !#-\[\]-~]*)")?'
    r'(?:, "pickle": "(%s)")?, "seal": "(%s)"\}\n)?' % ((XXH3_PATTERN,) * 3)
)
_OCTAL = re.compile(r"-?0\d+")
#: Stands before the digest of all that the file holds before it.
_DIGEST_KEY = ', "seal": "'
_INT64 = range(-(2**63), 2**63)
_DTYPE_OF_NAME = {row.oneflow: row for row in DTYPES if row.oneflow}
_DTYPE_OF_NUMBER = {row.oneflow_number: row for row in DTYPES if row.oneflow_number is not None}
_OLD_NAMES = {"kChar": INT8, 1: INT8}  # an older name of int8, OneFlow 0.5 to 0.7


@dataclass(slots=True)
class Comment:
    """Our comment line: what the format has no place for. ``index`` and ``count`` are of the snapshot's variables."""

    index: int
    count: int
    digest: str | None = None
    dtype: str | None = None  # the tensor's own, where a wider one is stored
    tied: str | None = None  # equal for variables that are one tensor
    pickle: str | None = None  # the digest of the pickled_data that points here
    modules: str | None = None  # some of the versions of modules beside the state dict, as JSON

    def parts(self) -> dict[str, int | str]:
        """Return what the line says: all that is not None."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


@dataclass(slots=True)
class VariableMeta:
    """What a ``meta`` file says: the shape, the dtype of the stored values, and our comment if there is one."""

    shape: tuple[int, ...]
    dtype: DType
    comment: Comment | None = None


def render_meta(meta: VariableMeta) -> bytes:
    """Return the bytes that OneFlow writes, and our comment line behind them."""
    dims = "".join(f"  dim: {dim}\n" for dim in meta.shape)
    text = f"shape {{\n{dims}}}\ndata_type: {meta.dtype.oneflow}\n"
    if meta.comment is not None:
        text += f"# multiframe_ckpt {json.dumps(meta.comment.parts())[:-1]}"
        text += f'{_DIGEST_KEY}{digest_of_bytes(text.encode("ascii"))}"}}\n'
    return text.encode("ascii")


def parse_meta(raw: bytes, where: str) -> VariableMeta:
    """Read the ``meta`` file ``where``; DamagedError says what OneFlow would not read either."""
    return parse_canonical(raw) or _parse_text(raw, where)


def parse_canonical(raw: bytes) -> VariableMeta | None:
    """Read what a writer writes and nothing contradicts; None for all else, which the parsers read or refuse."""
    match = _CANONICAL.fullmatch(raw.decode("latin-1"))  # takes all bytes; what is no ASCII does not match
    if match is None:
        return None
    dims, stored_name, index, count, digest, dtype_name, tied, pickle, text_digest = match.groups()
    stored = _DTYPE_OF_NAME.get(stored_name)
    if stored is None or (dtype_name is not None and dtype_named(dtype_name) is None):
        return None
    if index is None:
        return VariableMeta(_shape_of(dims), stored)
    if text_digest != digest_of_bytes(raw[: match.start(9) - len(_DIGEST_KEY)]):
        return None
    return VariableMeta(_shape_of(dims), stored, Comment(int(index), int(count), digest, dtype_name, tied, pickle))


@lru_cache(1024)  # a model has many tensors of few shapes
def _shape_of(dims: str) -> tuple[int, ...]:
    return tuple(map(int, dims.replace("dim:", "").split()))


def _parse_text(raw: bytes, where: str) -> VariableMeta:
    def damaged(contents: str) -> DamagedError:
        return DamagedError(
            f"{where}: found {contents}, expected protobuf text such as 'shape {{ dim: 2 }} data_type: kFloat'; "
            "the variable is damaged: restore it from a copy"
        )

    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise damaged("bytes that are no UTF-8 text") from None
    fields = _TextParser(text, damaged).message({"shape": _TextParser.shape, "data_type": _TextParser.data_type})
    if "data_type" not in fields:
        raise damaged("no data_type")
    shape, dtype = fields.get("shape", ()), fields["data_type"]
    assert isinstance(shape, tuple) and isinstance(dtype, DType)
    return VariableMeta(shape, dtype, _read_comment(text, damaged))


def _read_comment(text: str, damaged: Callable[[str], DamagedError]) -> Comment | None:
    line = _COMMENT.search(text)
    if line is None:
        if _has_broken_comment(text):
            raise damaged("what is left of a comment line of ours")
        return None
    try:
        parts = json.loads(line[1])
        text_digest = parts.pop("seal", None)  # absent in files of early versions
        comment = Comment(**parts)
    except (ValueError, TypeError, RecursionError):
        raise damaged(f"a comment line {line[0][:80]!r} that is not ours") from None
    numbers, texts = (
        (comment.index, comment.count),
        (comment.digest, comment.dtype, comment.tied, comment.pickle, comment.modules),
    )
    if any(type(value) is not int for value in numbers) or any(type(value) not in (str, type(None)) for value in texts):
        raise damaged(f"a comment line {line[0][:80]!r} with values of wrong types")
    if comment.dtype is not None and dtype_named(comment.dtype) is None:
        raise damaged(f"the dtype {comment.dtype!r} in our comment line")
    digests = (comment.digest, comment.pickle)
    if not all(digest is None or is_digest(digest) for digest in digests):
        raise damaged(f"a comment line {line[0][:80]!r} with a digest of another kind")
    if text_digest is not None and text_digest != digest_of_bytes(text.rpartition(_DIGEST_KEY)[0].encode("utf-8")):
        raise damaged(f"a comment line {line[0][:80]!r} whose digest is of other contents")
    return comment


def _has_broken_comment(text: str) -> bool:
    """Return whether a comment was our line: a flipped bit breaks one of two words; one cut short lacks its line's end."""
    comments = (line.partition("#")[2] for line in text.split("\n"))
    cut = text.rpartition("\n")[2].startswith("#")
    return cut or any("multiframe_ckpt" in comment or '"index"' in comment for comment in comments)


class _TextParser:
    """A recursive descent over the tokens of a text; ``damaged`` gives the error for what stands there."""

    def __init__(self, text: str, damaged: Callable[[str], DamagedError]) -> None:
        self._damaged = damaged
        self._tokens = self._scan(text)
        self._next = next(self._tokens)

    def _scan(self, text: str) -> Iterator[str]:
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._damaged(f"{text[position : position + 20]!r} at character {position}")
            position = match.end()
            token = next((group for group in match.groups() if group is not None), "")
            if token:
                yield token
        while True:
            yield ""

    def _take(self, *expected: str) -> bool:
        if self._next not in expected:
            return False
        self._next = next(self._tokens)
        return True

    def _token(self) -> str:
        token = self._next
        self._next = next(self._tokens)
        return token

    def message(self, readers: dict[str, Callable[[_TextParser], object]], close: str = "") -> dict[str, object]:
        """Read fields until ``close``; each may stand once."""
        fields: dict[str, object] = {}
        while self._next != close:
            name = self._token()
            if name not in readers or name in fields:
                raise self._damaged(f"the field {name!r}{' a second time' if name in fields else ''}")
            fields[name] = readers[name](self)
            self._take(",", ";")
        self._token()
        return fields

    def shape(self) -> tuple[int, ...]:
        """Read ``{ dim: … }``."""
        self._take(":")
        close = {"{": "}", "<": ">"}.get(self._token())
        if close is None:
            raise self._damaged("a shape without its brackets")
        dims: list[int] = []
        while not self._take(close):
            if self._token() != "dim" or not self._take(":"):
                raise self._damaged("a field other than 'dim:' in the shape")
            dims += self._numbers()
            self._take(",", ";")
        return tuple(dims)

    def _numbers(self) -> list[int]:
        if not self._take("["):
            return [self._number(self._token())]
        numbers = [] if self._next == "]" else [self._number(self._token())]
        while self._take(","):
            numbers.append(self._number(self._token()))
        if not self._take("]"):
            raise self._damaged("a list without its ]")
        return numbers

    def _number(self, token: str) -> int:
        try:
            number = int(token, 8 if _OCTAL.fullmatch(token) else 0)
        except ValueError:
            raise self._damaged(f"{token!r} where a number stands") from None
        if number not in _INT64:
            raise self._damaged(f"the number {token[:30]}, which is no int64")
        return number

    def data_type(self) -> DType:
        """Read ``: kFloat`` or ``: 2``."""
        if not self._take(":"):
            raise self._damaged("data_type without ':'")
        token = self._token()
        dtype = _DTYPE_OF_NAME.get(token) or _OLD_NAMES.get(token)
        # protobuf's readers differ over octal numbers here.
        if dtype is None and token[:1] in "-0123456789" and token and not _OCTAL.fullmatch(token):
            number = self._number(token)
            dtype = _DTYPE_OF_NUMBER.get(number) or _OLD_NAMES.get(number)
        if dtype is None:
            raise self._damaged(f"the data_type {token!r}")
        return dtype
