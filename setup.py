"""Builds the one extension module, mmapcache._mmapcache; everything else is in pyproject.toml.

Switches for developers, read from the environment:

    MMAPCACHE_WERROR=1                     warnings are errors
    MMAPCACHE_DEBUG=1                      assertions and the core's structure checks are on
    MMAPCACHE_SANITIZE=address,undefined   any list that the compiler's -fsanitize= takes
    MMAPCACHE_COVERAGE=1                   gcov counters
"""

from __future__ import annotations

import os
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILE = [
    "-std=c11",
    # Lookup and copy loops gain from inlining across the small functions of one file.
    "-O3",
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


class BuildExtension(build_ext):
    """Says in a sentence why a machine cannot build this, before the compiler says it in a page."""

    def run(self) -> None:
        if not sys.platform.startswith("linux"):
            raise SystemExit(
                f"mmapcache runs on Linux only (futex, memfd and fallocate): this is {sys.platform}"
            )
        if sys.byteorder != "little":
            raise SystemExit("mmapcache's file format is little-endian: this machine is not")
        super().run()


setup(
    ext_modules=[
        Extension(
            "mmapcache._mmapcache",
            sources=sorted(glob("src/*.c")),
            depends=sorted(glob("src/*.h")),
            include_dirs=["src"],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)
