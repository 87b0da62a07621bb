"""TranslateReport: what crossed from one framework's dialect to the other's, what did not, and what to mind."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ValueRefusedError

__all__ = ["Notes", "TranslateReport"]


@dataclass(frozen=True, slots=True)
class TranslateReport:
    """Each entry begins with the key it is about. What cannot cross is in ``left_out`` or was refused, never dropped."""

    converted: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"converted {entry}" for entry in self.converted]
        lines += [f"left out {entry}" for entry in self.left_out]
        return "\n".join([*lines, *(f"warning: {entry}" for entry in self.warnings)]) or "nothing to translate"


@dataclass(slots=True)
class Notes:
    """A report under way, for the part of the checkpoint called ``key``."""

    key: str
    converted: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def at(self, *names: object) -> Notes:
        """Gives the same report, for a place further down."""
        key = "/".join([self.key, *map(str, names)])
        return Notes(key, self.converted, self.left_out, self.warnings)

    def leave_out(self, what: str) -> None:
        """Adds what stays behind here, and why."""
        self.left_out.append(f"{self.key}: {what}")

    def warn(self, what: str) -> None:
        """Adds what to mind here."""
        self.warnings.append(f"{self.key}: {what}")

    def refused(self, what: str) -> ValueRefusedError:
        """Gives the error that says what was found here."""
        return ValueRefusedError(f"{self.key}: {what}")

    def report(self) -> TranslateReport:
        """Gives the report as it stands."""
        return TranslateReport(tuple(self.converted), tuple(self.left_out), tuple(self.warnings))
