"""A headless Chromium that tests look at a page with: its DevTools protocol, over a pipe."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = 90.0  # seconds; a browser's start may take long on a busy machine
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The pipe is expected at the descriptors 3 and 4.
_START = (
    "import os, sys\n"
    "os.dup2(int(sys.argv[1]), 3)\n"
    "os.dup2(int(sys.argv[2]), 4)\n"
    "os.execvp(sys.argv[3], sys.argv[3:])\n"
)
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"]


def executable() -> str | None:
    """The browser, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser; `problems` is what its console and its policies complained of."""

    def __init__(self, send: int, receive: int) -> None:
        self._send = send
        self._receive = receive
        self._number = 0
        self._session = ""
        self._rest = b""
        self.problems: list[str] = []

    def begin(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._event(answer)

    def open(self, url: str, *, width: int, height: int, dark: bool = False) -> None:
        """Goes to a page, in a window of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.scheme(dark=dark)
        self.call("Page.navigate", url=url)

    def leave(self) -> None:
        """Goes to an empty page."""
        self.call("Page.navigate", url="about:blank")
        self.until("location.href == 'about:blank'")

    def scheme(self, *, dark: bool) -> None:
        """What the reader of the page prefers, from now on."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, expression: str) -> Any:
        """What an expression is, in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Waits until the expression is true, and gives its value."""
        end = time.monotonic() + PATIENCE
        while not (value := self.value(expression)):
            if time.monotonic() > end:
                text = self.value("document.body.innerText")
                raise AssertionError(f"{expression} stayed {value}: {text}, {self.problems}")
            time.sleep(0.05)
        return value

    def screenshot(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, end - time.monotonic()))
            more = os.read(self._receive, 1 << 16) if ready else b""
            if not more:
                raise AssertionError("the browser does not answer")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _event(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser with an empty page."""
    program = executable()
    assert program is not None
    ours = [os.pipe(), os.pipe()]
    # far from 3 and 4
    theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (ours[0][0], ours[1][1])]
    home = tempfile.mkdtemp(prefix="mmapcache-browser-")
    arguments = [*_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={home}", "about:blank"]
    process = subprocess.Popen(
        [sys.executable, "-c", _START, *map(str, theirs), program, *arguments],
        pass_fds=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": home},
    )
    for descriptor in (*theirs, ours[0][0], ours[1][1]):
        os.close(descriptor)
    try:
        made = Browser(ours[0][1], ours[1][0])
        made.begin()
        yield made
    finally:
        os.close(ours[0][1])  # a browser whose pipe is closed ends
        os.close(ours[1][0])
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(Path(home), ignore_errors=True)
