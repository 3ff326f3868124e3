"""The page at the end: what was measured, beside what was promised."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_WIDTH: Final = 96


@dataclass
class Page:
    """Lines, and the promises that were or were not kept."""

    headline: str
    lines: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    number: int = 0

    def title(self, text: str) -> None:
        """Heads the next measurement."""
        self.number += 1
        self.lines += ["", f"{self.number}. {text}"]

    def line(self, text: str) -> None:
        """One line of figures."""
        self.lines.append(f"   {text}")

    def table(self, rows: list[tuple[str, ...]]) -> None:
        """Columns: the first to the left, the others to the right."""
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for first, *rest in rows:
            cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            self.line("   ".join([first.ljust(widths[0]), *cells]).rstrip())

    def promise(self, text: str, kept: bool) -> None:
        """What was promised about the figures above, and whether it was kept."""
        self.lines.append(f"   {'kept  ' if kept else 'BROKEN'}  {text}")
        if not kept:
            self.broken.append(text)

    def text(self, seconds: float) -> str:
        """The whole page."""
        rule = "=" * _WIDTH
        head = [rule, self.headline, rule]
        end = ["", "-" * _WIDTH]
        if self.broken:
            end += [f"BROKEN: {text}" for text in self.broken]
        else:
            end += [f"Every promise was kept. {seconds:.0f} seconds in all."]
        return "\n".join([*head, _machine(), *self.lines, *end, ""])


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    system = platform.uname()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{cores} cores, {system.system} {system.release} {system.machine}, {python}"


def replace_page(readme: Path, text: str) -> None:
    """Puts the page between the demo markers of a Markdown file, instead of the one before."""
    before, begin, rest = readme.read_text().partition("<!-- demo: begin -->\n")
    _, end, after = rest.partition("<!-- demo: end -->")
    if not begin or not end:
        raise ValueError(f"{readme} has no demo markers")
    readme.write_text(f"{before}{begin}```\n{text.strip()}\n```\n{end}{after}")


def count(value: int) -> str:
    """``12,345``."""
    return f"{value:,}"


def mebibytes(value: int) -> str:
    """``7.1 MiB``."""
    return f"{value / (1 << 20):,.1f} MiB"


def rate(result: dict[str, Any]) -> float:
    """Answers per second of one load."""
    return float(result["answered"]) / float(result["seconds"])
