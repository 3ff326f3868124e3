"""Processes in network namespaces of their own, on wires that are cut without anybody being told.

Needs root and Linux. What is cut drops every packet in both directions, as a broken switch does:
nobody gets a refusal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from demo.ring.installed import reserve

NOTHING_PASSES = ("tbf", "rate", "8bit", "burst", "1", "latency", "1ms")
NOBODY = "02:00:00:00:00:00"  # the hardware address of no wire
_NAMESPACES = Path("/var/run/netns")
_CLONE_NEWNET = 0x40000000


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


class Wire:
    """A namespace, and the wire from it to a hub. Made by `Hub.wire`."""

    def __init__(self, bridge: str, address: str) -> None:
        unique = uuid.uuid4().hex[:8]
        self.name = f"ring-{unique}"
        self.address = address
        self._here = f"rh{unique}"
        self._there = f"rt{unique}"
        self.prefix = ("ip", "netns", "exec", self.name)
        try:
            _run("ip", "netns", "add", self.name)
            _run("ip", "link", "add", self._here, "type", "veth", "peer", "name", self._there)
            _run("ip", "link", "set", self._there, "netns", self.name)
            _run("ip", "link", "set", self._here, "master", bridge, "up")
            _run(*self.prefix, "ip", "addr", "add", f"{address}/24", "dev", self._there)
            _run(*self.prefix, "ip", "link", "set", self._there, "up")
            _run(*self.prefix, "ip", "link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    def enter(self) -> None:
        """This thread, and what it starts from now on, is in the namespace."""
        library = ctypes.CDLL(None, use_errno=True)
        with (_NAMESPACES / self.name).open() as namespace:
            if library.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"setns: {os.strerror(number)}", self.name)

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

    @contextlib.contextmanager
    def cut_from(self, other: Wire) -> Iterator[None]:
        """Nothing passes between the two meanwhile: each sends it to nobody."""
        self._send(other, "replace", "lladdr", NOBODY, "nud", "permanent")
        other._send(self, "replace", "lladdr", NOBODY, "nud", "permanent")
        try:
            yield
        finally:
            self._send(other, "del")
            other._send(self, "del")

    def _send(self, other: Wire, verb: str, *where: str) -> None:
        words = ("ip", "neigh", verb, other.address, *where, "dev", self._there)
        _run(*self.prefix, *words)

    def remove(self) -> None:
        """The namespace and the wire."""
        for words in (("ip", "netns", "del", self.name), ("ip", "link", "del", self._here)):
            with contextlib.suppress(OSError):
                _run(*words)


class Hub:
    """Where wires meet: a network that no other process uses."""

    def __init__(self) -> None:
        number = next((each for each in range(1, 255) if reserve(f"hub {each}")), 0)
        if number == 0:
            raise OSError("all 254 networks are in use")
        self._network = f"10.213.{number}"
        self._bridge = f"rb{uuid.uuid4().hex[:8]}"
        self.wires: list[Wire] = []
        try:
            _run("ip", "link", "add", self._bridge, "type", "bridge")
            _run("ip", "addr", "add", f"{self._network}.1/24", "dev", self._bridge)
            _run("ip", "link", "set", self._bridge, "up")
        except BaseException:
            self.remove()
            raise

    def wire(self) -> Wire:
        """Another one."""
        wire = Wire(self._bridge, f"{self._network}.{len(self.wires) + 2}")
        self.wires.append(wire)
        return wire

    def remove(self) -> None:
        """With all wires. What is still in a namespace keeps it."""
        for wire in self.wires:
            wire.remove()
        with contextlib.suppress(OSError):
            _run("ip", "link", "del", self._bridge)


def missing() -> str:
    """Why there can be no wires here; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed: apt install iproute2"
    hub = None
    try:
        hub = Hub()
        one, other = hub.wire(), hub.wire()
        with one.cut(), one.cut_from(other):
            return ""
    except OSError as error:
        return f"a wire cannot be made and cut here: {error}"
    finally:
        if hub is not None:
            hub.remove()
