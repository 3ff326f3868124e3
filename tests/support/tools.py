"""Tools of others that a test asks: without one it is skipped, but where all of them have to be."""

from __future__ import annotations

import os
import shutil
import sysconfig
from typing import NoReturn

import pytest


def tool(command: str, installed_by: str) -> str:
    """The path of a command, on PATH or of a package beside this interpreter.

    Where MMAPCACHE_TEST_TOOLS is set, as in CI, one that is missing fails the test.

    :param installed_by: what somebody types who wants the test to run
    """
    where = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    path = shutil.which(command, path=where)
    if path is None:
        lacking(f"there is no {command} here: {installed_by}")
    return path


def lacking(what: str, *, module: bool = False) -> NoReturn:
    """Ends a test that lacks something: it is skipped, or fails, as for a command.

    :param what: is lacking, and what installs it
    :param module: it is not a test but a file of them that lacks it
    """
    if os.environ.get("MMAPCACHE_TEST_TOOLS"):
        pytest.fail(what)
    pytest.skip(what, allow_module_level=module)
