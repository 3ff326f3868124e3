"""Processes that start warm: forked from one that has imported PyMongo already.

    ForkedProcess([...])  ── asks ──>  this file as a process, without threads  ── forks ──>  it

The imports are two thirds of what a loader's start costs, and the tests start a thousand loaders.
Nothing of the project is imported before the fork: signals, modules, environment and descriptors
are each process's own. What needs a start from nothing (what happens during the imports, a
`sitecustomize`, a variable that the interpreter or the C library reads at its start) is not for
this: see `can_start`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_BORN_WITH = ("PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "ASAN_", "UBSAN_", "TSAN_")
# What a loader imports that is not the project's.
_IMPORTED = (
    *("argparse", "ipaddress", "json", "logging", "queue", "shutil", "signal", "tempfile"),
    *("bson", "bson.json_util", "pymongo", "pymongo.errors", "tqdm", "tqdm.std"),
)


def can_start(program: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether it may be forked: nothing in it takes part in the interpreter's own start.

    :param program: what the interpreter would be given
    :param environment: all variables of the process
    """
    if program[0] not in ("-m", "-c"):
        return False
    for name in environment.keys() | os.environ.keys():
        differs = environment.get(name) != os.environ.get(name)
        if differs and name.startswith(_BORN_WITH) and name != "PYTHONPATH":
            return False
    path = environment.get("PYTHONPATH", "")
    if path == os.environ.get("PYTHONPATH", ""):
        return True
    return not any(Path(part, "sitecustomize.py").exists() for part in path.split(os.pathsep))


class ForkedProcess:
    """As much of `subprocess.Popen` as the loaders of the tests need. Not thread-safe.

    :param program: "-m" or "-c" and what follows, then the arguments
    :param output: where both its streams go
    :param environment: all its variables
    """

    def __init__(
        self, program: Sequence[str], output: IO[bytes], environment: Mapping[str, str]
    ) -> None:
        self.returncode: int | None = None
        self._line, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_server(), [b"."], [theirs.fileno(), output.fileno()])
        asked = {"program": [*program], "environment": {**environment}, "cwd": str(Path.cwd())}
        self._line.sendall(json.dumps(asked).encode() + b"\n")
        self.pid = self._number()

    def poll(self) -> int | None:
        """The exit status if it has ended; a negative one is a signal."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end.

        :raises subprocess.TimeoutExpired: when that takes longer than `timeout` seconds
        """
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(["mmapcache"], timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # word of its end is under way
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._line], [], [], timeout)[0]:
            self.returncode = self._number()
            self._line.close()
        return self.returncode

    def _number(self) -> int:
        """What the forking process says next. Nothing is read ahead: `select` would not see it."""
        said = b""
        while not said.endswith(b"\n"):
            part = b""
            with contextlib.suppress(ConnectionError):
                part = self._line.recv(1)
            if not part:
                raise RuntimeError("the process that forks loaders has ended: see its traceback")
            said += part
        return int(said)


_servers: dict[int, socket.socket] = {}  # process -> the line to what forks for it


def _server() -> socket.socket:
    """The line to the process that forks; started when first needed, ends with this process."""
    line = _servers.get(os.getpid())
    if line is None:
        line, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            process = subprocess.Popen(
                [sys.executable, __file__, str(number)],
                stdout=subprocess.DEVNULL,
                pass_fds=[number],
            )
        _servers[os.getpid()] = line
        atexit.register(_end, os.getpid(), line, process)
    return line


def _end(owner: int, line: socket.socket, process: subprocess.Popen[bytes]) -> None:
    if os.getpid() == owner:
        line.close()
        process.kill()  # a child of this one may still hold the line
        process.wait()


def _serve(line: socket.socket) -> dict[str, Any] | None:
    """Forks for whoever asks on the line; what to run, in the child; None at the end."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([line, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    with running.pop(pid) as asker:
                        _tell(asker, os.waitstatus_to_exitcode(status))
        if line not in ready:
            continue
        got, descriptors, _, _ = socket.recv_fds(line, 1, 2)
        if not got:
            return None
        asker = socket.socket(fileno=descriptors[0])
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Here and now: what is collected later would close a descriptor of its successor.
            for other in (line, woken, wake, *running.values()):
                other.close()
            return _become(asker, descriptors[1])
        os.close(descriptors[1])
        _tell(asker, pid)
        running[pid] = asker


def _tell(asker: socket.socket, number: int) -> None:
    """Says it, unless nobody wants to know any more."""
    with contextlib.suppress(OSError):
        asker.sendall(b"%d\n" % number)


def _become(asker: socket.socket, output: int) -> dict[str, Any]:
    """Takes over what the new process is given: descriptors, directory, variables."""
    with asker.makefile("rb") as said:
        asked: dict[str, Any] = json.loads(said.readline())
    os.dup2(output, 1)
    os.dup2(output, 2)
    asker.close()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    time.tzset()
    return asked


def _run(asked: dict[str, Any]) -> None:
    """Does what the interpreter would do with its arguments."""
    kind, what, *arguments = asked["program"]
    sys.argv[:] = [kind, *arguments]
    path = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:1] = [asked["cwd"] if kind == "-m" else "", *path]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    for name in _IMPORTED:
        with contextlib.suppress(ImportError):
            __import__(name)
    gc.freeze()
    to_run = _serve(socket.socket(fileno=int(sys.argv[1])))
    if to_run is not None:
        _run(to_run)
