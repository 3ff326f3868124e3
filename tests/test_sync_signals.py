"""Signals to the loader at its worst moments: while it is imported, and while it is stuck."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.hold import Hold
from support.loader import PATIENCE, Loader, wait_for

# Takes the place of a module that the loader imports: waits, then gives the module itself.
SLOW = """
import os, pathlib, sys, time
here = pathlib.Path(__file__).parent
sys.path.remove(str(here))
(here / "waiting").touch()
while not (here / "go").exists():
    time.sleep(0.01)
del sys.modules[__name__]
__import__(__name__)
"""


@contextmanager
def importing(cache_path: Path, module: str, *flags: str) -> Iterator[tuple[Loader, Path]]:
    """A loader that is about to import the module; what to touch so that it does."""
    slow = cache_path.with_name("slow")
    slow.mkdir()
    (slow / f"{module}.py").write_text(SLOW)
    source = cache_path.with_name("sites.bson")
    source.write_bytes(b"\x0e\0\0\0\x10_id\0\x01\0\0\0\0")
    path = os.pathsep.join([str(slow), *filter(None, [os.environ.get("PYTHONPATH")])])
    what = flags or (f"--source=file:{source}", "--interval=3600")
    with Loader(cache_path, [*what], {"PYTHONPATH": path}) as loader:
        wait_for((slow / "waiting").exists)
        yield loader, slow / "go"


@pytest.mark.parametrize("module", ["argparse", "queue", "tomllib"])
def test_sighup_while_it_is_imported(cache_path: Path, module: str) -> None:
    if module == "tomllib" and sys.version_info < (3, 11):
        module = "tomli"
    with importing(cache_path, module) as (loader, go):
        loader.signal(signal.SIGHUP)
        go.touch()
        loader.expect("generation 1:")
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0


@pytest.mark.parametrize("module", ["argparse", "queue", "pymongo"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_is_imported(cache_path: Path, module: str, number: signal.Signals) -> None:
    flags = ["--uri=mongodb://127.0.0.1:9/", "--collection=a.b"] if module == "pymongo" else []
    if module == "pymongo":
        pytest.importorskip("pymongo")
    with importing(cache_path, module, *flags) as (loader, go):
        loader.signal(number)
        go.touch()
        assert loader.wait() == 0
        assert f"stopped by {number.name}" in loader.output
        assert "Traceback" not in loader.output
    assert not cache_path.exists()


def test_a_stop_while_a_client_is_made(cache_path: Path) -> None:
    """PyMongo knows the monitor then, which is not whole: its end is not waited for, nor shown."""
    pytest.importorskip("pymongo")
    hold = Hold(cache_path.with_name("hold"), "pymongo.synchronous.monitor:_RttMonitor.__init__")
    flags = ["--uri=mongodb://127.0.0.1:9/", "--collection=a.b"]
    with Loader(cache_path, flags, hold.environment) as loader:
        wait_for(hold.arrived)
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
        assert "Traceback" not in loader.output


def test_the_second_stop_while_it_is_imported(cache_path: Path) -> None:
    with importing(cache_path, "argparse") as (loader, _):
        loader.signal(signal.SIGINT)
        loader.signal(signal.SIGTERM)
        assert loader.wait() in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert loader.output == ""


def test_ctrl_c_while_another_command_is_imported(cache_path: Path) -> None:
    slow = cache_path.with_name("slow")
    slow.mkdir()
    (slow / "argparse.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-m", "mmapcache", "ls", str(cache_path)],
        env=os.environ | {"PYTHONPATH": str(slow)},
        stderr=subprocess.PIPE,
        text=True,
        # Whoever starts the tests in the background of a script has it ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    wait_for((slow / "waiting").exists)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE)[1] == ""
    assert process.returncode == -signal.SIGINT


# The main thread waits for a mutex that it holds: no handler ever runs again.
STUCK = """
import ctypes, pathlib, sys
from mmapcache.sync.inbox import Inbox
with Inbox().signals():
    print("stuck", flush=True)
    mutex = ctypes.create_string_buffer(128)
    library = ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_stop_ends_a_loader_whose_main_thread_is_stuck(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"stuck\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


LOST = """
import os, signal, sys, threading
from mmapcache.sync.errors import StopError
from mmapcache.sync.inbox import Inbox

inbox = Inbox()
with inbox.signals():
    number = signal.Signals(int(sys.argv[1]))
    # From here on the system gives it to another thread, and the main thread's sleep goes on.
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    threading.Timer(0.3, os.kill, [os.getpid(), number]).start()
    try:
        inbox.sleep(600)
        print("refresh")
    except StopError as stop:
        print(stop)
"""


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        (signal.SIGINT, "stopped by SIGINT\n"),
        (signal.SIGTERM, "stopped by SIGTERM\n"),
        (signal.SIGHUP, "refresh\n"),
    ],
)
def test_a_signal_that_does_not_interrupt_the_main_thread(
    number: signal.Signals, printed: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST, str(int(number))],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == (printed, "")
