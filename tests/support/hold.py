"""Holds a process at a named function: `sitecustomize` for processes of the tests.

    hold = Hold(directory, "mmapcache.sync.target:Target._open")
    ... a process with hold.environment ...
    hold.arrived()  ──>  the process waits there  ──>  hold.go()

The function is wrapped when its module has been executed, so that nothing else runs differently.
Signal handlers run while the process waits.
"""

from __future__ import annotations

import os
from pathlib import Path

_SITECUSTOMIZE = """
import functools, importlib.abc, importlib.machinery, os, pathlib, sys, time

here = pathlib.Path(__file__).parent
module, _, qualified = os.environ["HOLD_AT"].partition(":")
after = os.environ["HOLD_WHEN"] == "after"


def wait():
    if not (here / "arrived").exists():
        (here / "arrived").touch()
        while not (here / "go").exists():
            time.sleep(0.005)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def executed(made):
            execute(made)
            owner, last = made, qualified.split(".")[-1]
            for part in qualified.split(".")[:-1]:
                owner = getattr(owner, part)
            function = getattr(owner, last)

            @functools.wraps(function)
            def held(*arguments, **named):
                if not after:
                    wait()
                try:
                    return function(*arguments, **named)
                finally:
                    if after:
                        wait()

            setattr(owner, last, held)

        spec.loader.exec_module = executed
        return spec


sys.meta_path.insert(0, Finder())
"""


class Hold:
    """A place in the code of a process, at which it waits the first time that it comes there.

    :param directory: made here; for what the two processes tell each other
    :param at: `module:function` or `module:Class.method`
    :param when: "before" its body or "after" it
    """

    def __init__(self, directory: Path, at: str, when: str = "before") -> None:
        self._directory = directory
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        path = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {"PYTHONPATH": path, "HOLD_AT": at, "HOLD_WHEN": when}

    def arrived(self) -> bool:
        """Whether the process stands there, or has stood."""
        return (self._directory / "arrived").exists()

    def go(self) -> None:
        """Lets it go on."""
        (self._directory / "go").touch()
