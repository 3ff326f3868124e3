"""A ring to measure: servers with the module, the agent, and a plain server of the same binary."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mmapcache
from demo.ring.installed import ROOT, any_server, free_port, module_path, server_words
from mmapcache.ring.published import Published

PLAIN = "plain"
_PATIENCE = 60.0  # seconds until the ring is there


class MissingError(Exception):
    """What is needed is not installed; the message says what to install."""


def left_out(why: str) -> None:
    """Says what is not measured."""
    print(f"  left out: {why}", file=sys.stderr, flush=True)


class World:
    """
    :param ids: of the ring's nodes
    :raises MissingError: a server or the module is not there
    """

    def __init__(self, folder: Path, ids: Sequence[str]) -> None:
        self.folder = folder
        self.path = folder / "ring.mmc"
        self.ports = {name: free_port() for name in (*ids, PLAIN)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ids = ids
        self._binary, no_binary = any_server()
        self._module, no_module = module_path()
        if not self._binary or not self._module:
            raise MissingError(no_binary or no_module)

    def start(self) -> None:
        """Servers, agent, and the ring ready."""
        for name in self.ports:
            self.start_server(name)
        members = ",".join(f"{name}=127.0.0.1:{self.ports[name]}" for name in self._ids)
        words = ["-m", "mmapcache", "ring", "agent", str(self.path), "--members", members]
        with (self.folder / "agent.log").open("wb") as log:
            self.processes["agent"] = subprocess.Popen(
                [sys.executable, *words, "--fill-rate", "0"], stdout=log, stderr=log, cwd=ROOT
            )
        self.wait_ready()

    def start_server(self, name: str) -> None:
        """One of them, empty."""
        module = ("", ()) if name == PLAIN else (self._module, (f"id={name}", "fence=2000"))
        words = server_words(self._binary, self.ports[name], self.folder / name, *module)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(words, stdout=log, stderr=log)

    def pids(self, *names: str) -> list[int]:
        """Of servers."""
        return [self.processes[name].pid for name in names]

    def wait_ready(self) -> None:
        """
        :raises RuntimeError: it does not get ready
        """
        end = time.monotonic() + _PATIENCE
        file = Published(str(self.path))
        try:
            while time.monotonic() < end:
                try:
                    _, _, members = file.read()
                    states = [members[name].state for name in self._ids if name in members]
                except mmapcache.MmapCacheError:
                    states = []
                if states == ["ready"] * len(self._ids):
                    return
                time.sleep(0.05)
        finally:
            file.close()
        raise RuntimeError(f"the ring does not get ready: see {self.folder}")

    def kill(self, name: str) -> None:
        """At once."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """All of it."""
        for name in list(self.processes):
            self.kill(name)


@contextmanager
def running(folder: Path, ids: Sequence[str]) -> Iterator[World]:
    """A world while it is needed.

    :raises MissingError: what is needed is not installed
    """
    folder.mkdir(exist_ok=True)
    world = World(folder, ids)
    try:
        world.start()
        yield world
    finally:
        world.stop()
        shutil.rmtree(folder, ignore_errors=True)
