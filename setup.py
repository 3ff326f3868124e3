"""Builds the extension modules, mmapcache._mmapcache and, for the ring, mmapcache.ring._ring, which
know nothing of each other; everything else is in pyproject.toml.

Switches for developers, read from the environment:

    MMAPCACHE_WERROR=1                     warnings are errors
    MMAPCACHE_DEBUG=1                      assertions and the core's structure checks are on
    MMAPCACHE_SANITIZE=address,undefined   any list that the compiler's -fsanitize= takes
    MMAPCACHE_COVERAGE=1                   gcov counters
    MMAPCACHE_PORTABLE=1                   what macOS gets, on Linux: see docs/macos.md

And one for users of a free-threaded CPython, who want to try what has not been run on one yet:

    MMAPCACHE_FREE_THREADING=1             the module tells the interpreter that it needs no GIL

And for whoever publishes a release:

    MMAPCACHE_SOURCES=https://HOST/OWNER/mmapcache/blob/v1/   where the package's page leads
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import urljoin

from setuptools import Extension, setup

if sys.platform not in ("linux", "darwin"):
    raise SystemExit(
        f"mmapcache runs on Linux, and on macOS for development: this is {sys.platform}"
    )
if sys.byteorder != "little":
    raise SystemExit("mmapcache's file format is little-endian, and this machine is not")

COMPILE = [
    "-std=c11",
    # Lookup and copy loops gain from inlining across the small functions of one file.
    "-O3",
    # Assertions are for debug builds, whatever the interpreter itself was built with.
    "-DNDEBUG",
    # Only its PyInit function leaves a module: two copies in one process never mix their symbols.
    "-fvisibility=hidden",
    # The map is copied as words, whatever struct these bytes belong to.
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
]
LINK: list[str] = []

# Of two files that do the same for different systems, the one that the build leaves out.
PORTABLE = sys.platform != "linux" or os.environ.get("MMAPCACHE_PORTABLE") == "1"
OTHER = "_linux.c" if PORTABLE else "_posix.c"
SOURCES = sorted(str(path) for path in Path("src").rglob("*.c") if not path.name.endswith(OTHER))

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


def package_page(readme: str, sources: str) -> str:
    """README.md for where no file lies beside it: its links lead into `sources`, an address that
    ends with a slash. Where that is empty their text stays, and pictures are left out."""

    def replace(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if target.startswith(("https:", "http:", "#")):
            return found[0]
        if sources:
            raw = urljoin(sources, target) + ("?raw=true" if picture else "")
            return f"{picture}[{words}]({raw})"
        return "" if picture else words

    page = re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", replace, readme)
    page = re.sub(r"<!-- .*? -->\n", "", page)
    return re.sub(r"\n{3,}", "\n\n", page)


def project_urls(sources: str) -> dict[str, str]:
    """The package page's own links, into the same address; none where that is empty."""
    if not sources:
        return {}
    return {
        "Source": sources.partition("/blob/")[0],
        "Documentation": urljoin(sources, "docs/index.md"),
        "Changelog": urljoin(sources, "CHANGELOG.md"),
    }


ADDRESS = os.environ.get("MMAPCACHE_SOURCES", "")
if ADDRESS and not re.fullmatch(r"https://\S+/blob/\S+/", ADDRESS):
    raise SystemExit(
        f"MMAPCACHE_SOURCES is {ADDRESS!r}: it has to be an address of the sources that ends with a"
        " slash, such as https://HOST/OWNER/mmapcache/blob/v1/"
    )

SHARE = Path("mmapcache/share")  # see tools/make_share.py
DATA = {
    "share/bash-completion/completions": SHARE / "mmapcache.bash",
    "share/man/man1": SHARE / "mmapcache.1",
    "share/zsh/site-functions": SHARE / "_mmapcache",
    "share/fish/vendor_completions.d": SHARE / "mmapcache.fish",
}

setup(
    long_description=package_page(Path("README.md").read_text("utf-8"), ADDRESS),
    long_description_content_type="text/markdown",
    project_urls=project_urls(ADDRESS),
    data_files=[(folder, [str(file)]) for folder, file in DATA.items()],
    ext_modules=[
        Extension(
            "mmapcache._mmapcache",
            sources=SOURCES,
            depends=sorted(map(str, Path("src").rglob("*.h"))),
            include_dirs=["src"],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        ),
        Extension(
            "mmapcache.ring._ring",
            sources=sorted(map(str, Path("ring").glob("*.c"))),
            depends=sorted(map(str, Path("ring").glob("*.h"))),
            include_dirs=["ring"],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        ),
    ],
)
