"""Text, values and tables as a person sees them: whole, aligned, and harmless to a terminal."""

from __future__ import annotations

import pytest

from multiframe_ckpt.terminal.table import table
from multiframe_ckpt.terminal.text import bulleted, human_size, plural, printable, safe_repr, short_repr

HUGE = 1 << 50_000


def test_printable_text_is_shown_as_it_is() -> None:
    assert printable("l1.weight größe 重み 🙂") == "l1.weight größe 重み 🙂"


def test_what_could_drive_a_terminal_is_escaped() -> None:
    assert printable("\x1b[2J\n\u202e") == r"\x1b[2J\n\u202e"


@pytest.mark.parametrize(
    ("nbytes", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (437_544, "437.5 kB"), (1 << 40, "1.1 TB")]
)
def test_a_size_is_said_in_the_unit_that_reads_best(nbytes: int, words: str) -> None:
    assert human_size(nbytes) == words


def test_one_is_one_and_many_are_many() -> None:
    assert [plural(number, "tensor") for number in (0, 1, 1234)] == ["0 tensors", "1 tensor", "1,234 tensors"]


def test_a_long_list_is_cut_and_says_where_the_rest_is_but_never_for_one_line_more() -> None:
    assert list(bulleted(["a", "b", "c", "d"], most=2, hint="; see x")) == ["  a", "  b", "  ... and 2 more; see x"]
    assert list(bulleted(["a", "b", "c"], most=2)) == ["  a", "  b", "  c"]


@pytest.mark.parametrize("value", [1, 2.5, "it's", b"x", None, True, [1, "a"], (1, 2), {"a": [1]}, [], (), {}])
def test_a_value_is_spelled_as_python_does(value: object) -> None:
    assert safe_repr(value) == repr(value)


@pytest.mark.parametrize("value", [HUGE, [HUGE], ((HUGE,),), {"a": HUGE}], ids=["int", "list", "tuples", "dict"])
def test_an_integer_that_python_will_not_spell_is_shown_in_base_16_wherever_it_stands(value: object) -> None:
    assert hex(HUGE) in safe_repr(value)
    assert short_repr(value) == safe_repr(value)[:80]


def test_a_table_is_aligned_and_its_last_column_is_not_padded() -> None:
    assert list(table([("long", "1", "x")], header=("a", "bb", "c"), right={1})) == ["  a     bb  c", "  long   1  x"]


def test_a_table_folds_its_last_column_under_itself_where_there_is_room_for_one() -> None:
    rows = [("key", "one two three four five")]
    assert list(table(rows, columns=27)) == ["  key  one two three four", "       five"]
    assert list(table(rows, columns=20)) == ["  key  one two three four five"]
