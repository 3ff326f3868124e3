"""What a demo is told by: lines of progress, its page, and an end that Ctrl-C may bring forward."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from demo.page import Page, replace_page
from demo.processes import DemoError


class Story:
    """One run of a demo.

    :param headline: of its page
    """

    def __init__(self, headline: str) -> None:
        self.page = Page(headline)
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        """One line of progress."""
        sys.stdout.write(f"[{time.monotonic() - self.began:5.1f} s] {text}\n")
        sys.stdout.flush()

    def close(self, readme: Path | None) -> int:
        """Prints the page; the exit status.

        :param readme: a file that the page is put into, too
        """
        text = self.page.text(time.monotonic() - self.began)
        sys.stdout.write("\n" + text)
        sys.stdout.flush()
        if readme is not None:
            replace_page(readme, text)
        return 1 if self.page.broken else 0


def arguments(program: str, epilog: str = "") -> argparse.ArgumentParser:
    """The arguments that every demo has."""
    parser = argparse.ArgumentParser(prog=program, epilog=epilog)
    parser.add_argument("--quick", action="store_true", help="shorter acts, for tests")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="put the page between this file's demo markers"
    )
    return parser


def tell(story: Callable[[], int]) -> int:
    """Runs a demo to its end, by SIGTERM and Ctrl-C too; the exit status."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return story()
    except DemoError as error:
        sys.stderr.write(f"the demo could not go on: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
