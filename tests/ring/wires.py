"""Servers in network namespaces of their own, on wires that can be cut without anybody being told.

Needs root and Linux. A cut wire drops every packet in both directions, as a broken switch does:
nobody gets a refusal.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator

from demo.ring.installed import reserve

NOTHING_PASSES = ("tbf", "rate", "8bit", "burst", "1", "latency", "1ms")


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


class Wire:
    """A namespace, and the wire to it, with a network that no other process uses."""

    def __init__(self) -> None:
        number = next((each for each in range(1, 255) if reserve(f"wire {each}")), 0)
        if number == 0:
            raise OSError("all 254 networks are in use")
        unique = uuid.uuid4().hex[:8]
        self.name = f"ring-{unique}"
        self.address = f"10.213.{number}.2"
        self._here = f"rh{unique}"
        self._there = f"rt{unique}"
        self.prefix = ("ip", "netns", "exec", self.name)
        try:
            _run("ip", "netns", "add", self.name)
            _run("ip", "link", "add", self._here, "type", "veth", "peer", "name", self._there)
            _run("ip", "link", "set", self._there, "netns", self.name)
            _run("ip", "addr", "add", f"10.213.{number}.1/24", "dev", self._here)
            _run("ip", "link", "set", self._here, "up")
            _run(*self.prefix, "ip", "addr", "add", f"{self.address}/24", "dev", self._there)
            _run(*self.prefix, "ip", "link", "set", self._there, "up")
            _run(*self.prefix, "ip", "link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing passes meanwhile."""
        _run("tc", "qdisc", "add", "dev", self._here, "root", *NOTHING_PASSES)
        _run(*self.prefix, "tc", "qdisc", "add", "dev", self._there, "root", *NOTHING_PASSES)
        try:
            yield
        finally:
            _run("tc", "qdisc", "del", "dev", self._here, "root")
            _run(*self.prefix, "tc", "qdisc", "del", "dev", self._there, "root")

    def remove(self) -> None:
        """The namespace and the wire."""
        for words in (("ip", "netns", "del", self.name), ("ip", "link", "del", self._here)):
            with contextlib.suppress(OSError):
                _run(*words)


def missing() -> str:
    """Why there can be no wires here; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed: apt install iproute2"
    try:
        wire = Wire()
    except OSError as error:
        return f"no network namespace can be made here: {error}"
    try:
        with wire.cut():
            return ""
    except OSError as error:
        return f"a wire cannot be cut here: {error}"
    finally:
        wire.remove()


Wires = dict[str, Wire]
