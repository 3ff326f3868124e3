"""Builds the one extension module, mmapcache._mmapcache; everything else is in pyproject.toml.

Switches for developers, read from the environment:

    MMAPCACHE_WERROR=1                     warnings are errors
    MMAPCACHE_DEBUG=1                      assertions and the core's structure checks are on
    MMAPCACHE_SANITIZE=address,undefined   any list that the compiler's -fsanitize= takes
    MMAPCACHE_COVERAGE=1                   gcov counters

And one for users of a free-threaded CPython, who want to try what has not been run on one yet:

    MMAPCACHE_FREE_THREADING=1             the module tells the interpreter that it needs no GIL
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    raise SystemExit(f"mmapcache runs on Linux only (futex, memfd): this is {sys.platform}")
if sys.byteorder != "little":
    raise SystemExit("mmapcache's file format is little-endian, and this machine is not")

COMPILE = [
    "-std=c11",
    # Lookup and copy loops gain from inlining across the small functions of one file.
    "-O3",
    # Assertions are for debug builds, whatever the interpreter itself was built with.
    "-DNDEBUG",
    # Only PyInit__mmapcache leaves the module: two copies in one process never mix their symbols.
    "-fvisibility=hidden",
    # The map is copied as words, whatever struct these bytes belong to.
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
]
LINK: list[str] = []

if os.environ.get("MMAPCACHE_WERROR") == "1":
    COMPILE += ["-Werror"]
if os.environ.get("MMAPCACHE_DEBUG") == "1":
    COMPILE += ["-O1", "-g", "-UNDEBUG", "-DMC_DEBUG"]
if sanitizers := os.environ.get("MMAPCACHE_SANITIZE"):
    flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    COMPILE += ["-O1", "-g", *flags]
    LINK += flags
if os.environ.get("MMAPCACHE_COVERAGE") == "1":
    COMPILE += ["-O0", "-g", "--coverage"]
    LINK += ["--coverage"]
if os.environ.get("MMAPCACHE_FREE_THREADING") == "1":
    COMPILE += ["-DMC_NO_GIL"]


SHARE = Path("mmapcache/share")  # see tools/make_share.py
DATA = {
    "share/bash-completion/completions": SHARE / "mmapcache.bash",
    "share/man/man1": SHARE / "mmapcache.1",
    "share/zsh/site-functions": SHARE / "_mmapcache",
    "share/fish/vendor_completions.d": SHARE / "mmapcache.fish",
}

setup(
    data_files=[(folder, [str(file)]) for folder, file in DATA.items()],
    ext_modules=[
        Extension(
            "mmapcache._mmapcache",
            sources=sorted(map(str, Path("src").rglob("*.c"))),
            depends=sorted(map(str, Path("src").rglob("*.h"))),
            include_dirs=["src"],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        )
    ],
)
