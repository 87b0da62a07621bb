"""Case and Contender: what is compared, on which workload, and who takes part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of doing a case's work; ``kind`` is ours, peer or limit, ``source`` the library whose files it reads.

    ``flush`` tells its time twice: as it is, and with what it wrote flushed to the disk afterwards.
    """

    label: str
    kind: str
    job: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str = "torch"
    source: str | None = None
    suffix: str = ""
    flush: bool = False
    durable: bool = False
    digest: bool | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """Work that several contenders do alike on one workload; ``limit`` is the label of the one that sets the measure.

    ``moves`` says that they write the workload's bytes, or take memory for them.
    """

    name: str
    workload: str
    contenders: Sequence[Contender]
    limit: str | None = None
    cache: str = "warm"
    rounds: int = 5
    moves: bool = False
