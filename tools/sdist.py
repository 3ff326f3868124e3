"""Makes the sdist, the same bytes on every machine: `make sdist`.

    tools/sdist.py              makes it in dist/
    tools/sdist.py FILE         makes one that a build made the same bytes, in its place

setuptools dates the entries by the files, orders them as the file system does and names their
owner. Here they are sorted, of nobody, and of SOURCE_DATE_EPOCH, the time of the last commit unless
it is set. The bytes still depend on the versions of setuptools and zlib.

The second form needs the standard library alone.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*words: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """What a command printed; raises RuntimeError with all of it when it fails."""
    command = [str(word) for word in words]
    done = subprocess.run(
        command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:6])} ...:\n{done.stdout}")
    return done.stdout


def source_date() -> str:
    """SOURCE_DATE_EPOCH, or the time of the last commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    return run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()


def plain(entry: tarfile.TarInfo, date: int) -> tarfile.TarInfo:
    """An entry of the sdist without what differs between machines and users."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = date
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    entry.pax_headers = {}
    return entry


def repack(made: Path, result: Path, date: int) -> None:
    """The same archive with its entries sorted, dated, and of nobody's."""
    with (
        tarfile.open(made) as source,
        result.open("wb") as file,
        gzip.GzipFile("", "wb", mtime=date, fileobj=file) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for entry in sorted(source.getmembers(), key=lambda entry: entry.name):
            content = source.extractfile(entry) if entry.isfile() else None
            target.addfile(plain(entry, date), content)


def make_sdist(out: Path, date: int, tree: Path = ROOT) -> Path:
    """The sdist of a source tree, in the folder `out`."""
    with tempfile.TemporaryDirectory() as scratch:
        make = [sys.executable, "-m", "build", "--no-isolation", "--sdist"]
        run(*make, "--outdir", scratch, tree)
        (made,) = Path(scratch).glob("*.tar.gz")
        repack(made, out / made.name, date)
        return out / made.name


def main() -> None:
    """Makes it, and says where it is and its SHA-256."""
    if sys.argv[1:2] in (["-h"], ["--help"]) or len(sys.argv) > 2:
        raise SystemExit(__doc__)
    date = int(source_date())
    if len(sys.argv) == 2:
        made = Path(sys.argv[1])
        scratch = made.with_name(f"{made.name}.new")
        repack(made, scratch, date)
        scratch.replace(made)
    else:
        (ROOT / "dist").mkdir(exist_ok=True)
        made = make_sdist(ROOT / "dist", date)
    print(f"sdist: {made} {hashlib.sha256(made.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
