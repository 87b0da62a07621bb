"""TranslateReport and Holding: what crossed from one dialect to another, what cannot, what stays behind, what to mind."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ValueRefusedError

__all__ = ["Holding", "Notes", "TranslateReport"]


@dataclass(frozen=True, slots=True)
class TranslateReport:
    """Each entry begins with the key it is about. What cannot cross is in ``left_out`` or was refused, never dropped."""

    converted: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was left out."""
        return not self.left_out

    def __str__(self) -> str:
        lines = [f"converted {entry}" for entry in self.converted]
        lines += [f"left out {entry}" for entry in self.left_out]
        return "\n".join([*lines, *(f"warning: {entry}" for entry in self.warnings)]) or "nothing to translate"


@dataclass(frozen=True, slots=True)
class Holding:
    """What of a neutral state a dialect can hold: all of it but what is ``left_out``, or nothing where it has ``refused``.

    Each entry begins with the key it is about and says why.
    """

    refused: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the state can be written."""
        return not self.refused

    def require(self) -> None:
        """Raise ValueRefusedError with the first reason where the state cannot be written."""
        if self.refused:
            raise ValueRefusedError(self.refused[0])


@dataclass(slots=True)
class Notes:
    """A report under way, for the part of the checkpoint called ``key``."""

    key: str
    converted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def at(self, *names: object) -> Notes:
        """Return the same report, for a place further down."""
        key = "/".join([self.key, *map(str, names)])
        return Notes(key, self.converted, self.refused, self.left_out, self.warnings)

    def refuse(self, reason: str) -> None:
        """Add a reason for which nothing can be written."""
        self.refused.append(f"{self.key}: {reason}")

    def leave_out(self, text: str) -> None:
        """Add what stays behind here, and why."""
        self.left_out.append(f"{self.key}: {text}")

    def warn(self, text: str) -> None:
        """Add what to mind here."""
        self.warnings.append(f"{self.key}: {text}")

    def error(self, text: str) -> ValueRefusedError:
        """Return the error that says what was found here, to be raised."""
        return ValueRefusedError(f"{self.key}: {text}")

    def add(self, other: TranslateReport | Holding | Notes) -> None:
        """Add what another report says."""
        self.converted += getattr(other, "converted", ())
        self.left_out += other.left_out
        self.warnings += other.warnings

    def holding(self) -> Holding:
        """Return what was noted, as an answer of ``Dialect.holds``."""
        return Holding(tuple(self.refused), tuple(self.left_out), tuple(self.warnings))

    def report(self) -> TranslateReport:
        """Return the report as it stands."""
        return TranslateReport(tuple(self.converted), tuple(self.left_out), tuple(self.warnings))
