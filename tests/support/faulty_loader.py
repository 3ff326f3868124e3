"""A loader with one deliberate fault, for the gap test to see."""

from __future__ import annotations

FAULTS: dict[str, object] = {}
WEIGHTS: dict[str, dict[str, int]] = {}
