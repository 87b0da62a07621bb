"""formats and backends, from the command line."""

import json

from multiframe_ckpt.backend import BACKENDS
from multiframe_ckpt.formats import FORMATS


def test_formats_lists_every_format_with_its_suffixes(run):
    result = run("formats", "--json")
    records = {record["name"]: record for record in json.loads(result.stdout)["formats"]}
    assert list(records) == FORMATS.names()
    assert records["torch"]["suffixes"] == [".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pt.tar", ".ckpt.tar"]


def test_formats_reads_as_a_table(run):
    said = run("formats").stdout.splitlines()
    assert said[0].split()[:2] == ["format", "suffixes"]
    assert said[1].split()[:2] == ["torch", ".pt"]


def test_backends_lists_every_backend_and_why_one_is_not_here(run):
    records = json.loads(run("backends", "--json").stdout)["backends"]
    assert [record["name"] for record in records] == BACKENDS.names()
    assert records[0]["available"] is True
    assert all(record["available"] or record["reason"] for record in records)
