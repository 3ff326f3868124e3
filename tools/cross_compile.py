"""Compiles both extensions for systems that are not here, with zig: `make cross`.

    cross_compile.py [TARGET...]      TARGETS, or any that zig knows: x86_64-linux-gnu.2.17, ...

For each target every C file, warnings being errors. The core is linked by itself, which fails when
it calls what that system's C library does not have, and so is the extension, whose calls of
Python's are found when it is loaded. Nothing is run. Python's headers are those of the interpreter
that runs this: its pyconfig.h says what its own system has, and the headers that we include ask it
for nothing that differs.

Needs the package ziglang, which brings the headers and libraries of all targets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import zig
from lint_architecture import ROOT, TWINS, core_sources

BUILD = ROOT / "build" / "cross"
TARGETS = ("aarch64-macos", "x86_64-macos", "x86_64-linux-musl")  # macs, and Alpine
FLAGS = ["-std=c11", "-O1", "-fno-sanitize=all", "-fno-strict-aliasing"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Isrc"]
# What begins a library for macOS, of 64 bits, and for Linux.
MAGIC = {"macos": b"\xcf\xfa\xed\xfe", "linux": b"\x7fELF"}


def headers() -> Path:
    """A copy of Python's headers; Debian's pyconfig.h leads to one of many systems, none a mac."""
    to, paths = BUILD / "include", sysconfig.get_paths()
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(paths["include"], to)
    multiarch = str(sysconfig.get_config_var("MULTIARCH"))
    real = Path("/usr/include") / multiarch / Path(paths["include"]).name / "pyconfig.h"
    if multiarch in (to / "pyconfig.h").read_text() and real.exists():
        shutil.copy(real, to / "pyconfig.h")
    return to


def compiler(target: str, *arguments: str) -> None:
    """Runs the compiler; raises CalledProcessError with what it said."""
    command = [*zig.cc(target), *FLAGS, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.PIPE, text=True)


def compile_for(target: str, include: Path) -> str:
    """Compiles and links everything for one target; what was made, in a sentence."""
    begun, out, macos = time.monotonic(), BUILD / target, target.endswith("macos")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    sources = [path for path in (ROOT / "src").rglob("*.c") if path.stem[-6:] != TWINS[not macos]]
    core, of_ring = out / "core.so", sorted((ROOT / "ring").glob("*.c"))
    later = "-Wl,-undefined,dynamic_lookup" if macos else "-Wl,-z,undefs"
    whole = [] if macos else ["-Wl,-z,defs"]
    # What has been compiled for the first is not compiled again.
    compiler(target, "-shared", *names(core_sources(ROOT, macos)), *whole, "-o", str(core))
    size = 0
    for name, made_of in (("_mmapcache", sources), ("_ring", of_ring)):
        module = out / f"{name}.so"
        compiler(target, "-shared", *names(made_of), f"-isystem{include}", later, "-o", str(module))
        content = module.read_bytes()
        size += len(content)
        if not content.startswith(MAGIC["macos" if macos else "linux"]):
            raise SystemExit(f"cross: {module} is no library for {target}")
        if f"PyInit_{name}".encode() not in content:
            raise SystemExit(f"cross: {module} does not export PyInit_{name}")
    count = len(sources) + len(of_ring)
    return f"{count} C files, {size} bytes, {time.monotonic() - begun:.0f} s"


def names(paths: list[Path]) -> list[str]:
    """The paths below the root, for messages."""
    return [str(path.relative_to(ROOT)) for path in paths]


def main() -> int:
    """A line for each target; 1 when one fails, 2 when zig is missing."""
    if to_do := zig.missing():
        print(f"cross: {to_do}")
        return 2
    BUILD.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("ZIG_LOCAL_CACHE_DIR", str(BUILD / "cache"))
    include, failed = headers(), 0
    for target in sys.argv[1:] or TARGETS:
        try:
            print(f"cross: {target}: {compile_for(target, include)}", flush=True)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(f"cross: {target}: FAILED with {error.returncode}\n{error.stderr}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
