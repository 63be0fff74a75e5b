"""What a run of the harness found and counted."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SHOWN = 20
"""So many findings are repeated under the table: one fault may show in a hundred trials."""


@dataclass
class Report:
    """Findings and figures.

    Attributes:
        title: What was run.
        folder: Where its database, logs and journal are.
        quiet: Whether to print nothing while it runs.
        found: What must not be, and where each time.
        kills: How often each kind of kill was done.
        figures: Counts for the table, by name.
        exit_codes: How the coordinators ended.
        refused_after: Seconds that second coordinators took to be refused.
        replaced_after: Seconds until a stopped worker was gone while its coordinator lived.
    """

    title: str
    folder: Path
    quiet: bool = False
    found: dict[str, list[str]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    figures: dict[str, object] = field(default_factory=dict)
    exit_codes: Counter[int] = field(default_factory=Counter)
    refused_after: list[float] = field(default_factory=list)
    replaced_after: list[float] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Print a line."""
        if not self.quiet:
            print(line, flush=True)

    def find(self, text: str, where: Path | None = None) -> None:
        """Add a finding; ``where`` tells those of the same text apart, such as a log."""
        places = self.found.setdefault(text, [])
        if not places or str(where) not in places:
            places.append(str(where))
            self.say(f"FINDING  {text}" + (f" ({where})" if where else ""))

    @property
    def findings(self) -> list[str]:
        """What must not be, each with the first place and how many there are."""
        return [
            f"{text} ({places[0]}{f' and {len(places) - 1} more' if places[1:] else ''})"
            if places != ["None"]
            else text
            for text, places in self.found.items()
        ]

    def table(self) -> str:
        """Return everything for people."""
        rows: list[tuple[str, object]] = [
            ("kills", sum(self.kills.values())),
            *((f"  {kind}", count) for kind, count in sorted(self.kills.items())),
            *self.figures.items(),
            ("exit codes", _counted(self.exit_codes)),
            ("second coordinator refused", _spread(self.refused_after)),
            ("stopped worker replaced", _spread(self.replaced_after)),
            ("findings", len(self.findings)),
        ]
        lines = [self.title, *(f"  {name:<36} {value}" for name, value in rows)]
        shown = [f"  - {each}" for each in self.findings[:SHOWN]]
        if len(self.findings) > SHOWN:
            shown.append(f"  - and {len(self.findings) - SHOWN} more")
        return "\n".join([*lines, *shown])


def _counted(counter: Counter[int]) -> str:
    return ", ".join(f"{code}: {count}" for code, count in sorted(counter.items()))


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "not tried"
    middle = statistics.median(seconds)
    return f"{len(seconds)} times, after {middle:.1f} s (median), {max(seconds):.1f} s (longest)"
