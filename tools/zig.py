"""The compiler that the package ziglang brings, for systems that are not here.

Its version is named in pyproject.toml, in the extra `wheels`, and nowhere else.
"""

from __future__ import annotations

import importlib.util
import sys


def cc(target: str) -> list[str]:
    """The first words of a command that compiles for a target, as `x86_64-linux-gnu.2.17`."""
    return [sys.executable, "-m", "ziglang", "cc", "-target", target]


def missing() -> str:
    """What to do where there is no zig; empty where there is one."""
    if importlib.util.find_spec("ziglang") is not None:
        return ""
    return "the package ziglang is missing: python -m pip install --editable '.[wheels]'"
