"""Unpacks packages of a Debian suite, with what they depend on, beside the machine's own.

    python tools/debian.py FOLDER SUITE[:ARCHITECTURE] PACKAGE...

For what this machine's suite has not: a newer interpreter and compiler, another architecture. apt
works with lists and settings of its own in FOLDER.apt, on the mirror and with the keys that this
machine uses, so nothing of the machine is changed and root is not needed. Nothing of a package is
run: there is only what it brings, to be compiled against, or to be run by `inside`. What is there
already, of the same packages, is not fetched again; remove the folder for newer ones.

Only the standard library.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# What no package brings where all of them put everything below usr/.
MERGED = ("bin", "sbin", "lib", "lib64")


class NotAvailableError(Exception):
    """These packages cannot be fetched today; says why, in one line."""


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """What a command printed; raises NotAvailableError with its last words when it fails."""
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotAvailableError(
            f"{error.filename} is not on this machine: it is no Debian"
        ) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no word"]
        raise NotAvailableError(f"{' '.join(map(str, command[:3]))}: {said[-1]}")
    return done.stdout


def mirror() -> str:
    """The address of the mirror that this machine's own apt takes Debian itself from."""
    for address in run("apt-get", "indextargets", "--format", "$(REPO_URI)").split():
        if address.endswith("/debian/"):  # as on all mirrors
            return address
    raise NotAvailableError("the apt of this machine has no mirror of Debian")


def settings(apt: Path, suite: str, architecture: str) -> dict[str, str]:
    """Lays apt's folders out in `apt`; returns the environment in which apt uses them."""
    for folder in ("lists/partial", "cache/archives/partial", "etc"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb {mirror()} {suite} main\n")
    (apt / "apt.conf").write_text(
        f'Dir::State "{apt}"; Dir::State::Lists "{apt}/lists"; Dir::State::status "{apt}/status";\n'
        f'Dir::Cache "{apt}/cache"; Dir::Etc::sourcelist "{apt}/sources.list";\n'
        'Dir::Etc::sourceparts "/dev/null"; Dir::Etc::preferencesparts "/dev/null";\n'
        f'APT::Architecture "{architecture}"; APT::Architectures {{"{architecture}";}};\n'
        'APT::Install-Recommends "0"; APT::Sandbox::User ""; Acquire::Languages "none";\n'
        'Acquire::Retries "3"; Dpkg::Use-Pty "0";\n'
    )
    return {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}


def unpack(folder: Path, suite: str, packages: Sequence[str], architecture: str = "") -> Path:
    """Has the packages, and all that they depend on, in `folder`, which is returned.

    :raises NotAvailableError: one of them is not there, or nothing can be fetched
    """
    folder = folder.resolve()
    architecture = architecture or run("dpkg", "--print-architecture").strip()
    stamp, wanted = folder / ".unpacked", " ".join([suite, architecture, *sorted(packages)])
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    apt = folder.with_name(f"{folder.name}.apt")
    for old in (folder, apt):
        shutil.rmtree(old, ignore_errors=True)
    env = settings(apt, suite, architecture)
    run("apt-get", "update", "--quiet", env=env)
    run("apt-get", "install", "--quiet", "--yes", "--download-only", *packages, env=env)
    for name in MERGED:
        (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(f"usr/{name}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        archives = sorted((apt / "cache/archives").glob("*.deb"))
        list(pool.map(lambda archive: run("dpkg-deb", "--extract", archive, folder), archives))
    shutil.rmtree(apt)  # what is in it is unpacked, or old tomorrow
    stamp.write_text(wanted)
    return folder


def inside(folder: Path, command: Sequence[str]) -> list[str]:
    """The command that runs `command` with the folder's /usr in place of this machine's.

    In a mount namespace of its own, so nobody else sees it and nothing is left; all but the
    programs, that is /etc, /home, /tmp, the network, stays as it is.
    """
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    swap = f'mount --bind {shlex.quote(str(folder / "usr"))} /usr && exec "$@"'
    return ["unshare", "--mount", *user, "sh", "-c", swap, "inside", *command]


def main() -> None:
    """Unpacks, and says where; exits with 1 and a sentence when that cannot be done."""
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    suite, _, architecture = sys.argv[2].partition(":")
    try:
        print(unpack(Path(sys.argv[1]), suite, sys.argv[3:], architecture))
    except NotAvailableError as error:
        raise SystemExit(f"debian: {error}") from error


if __name__ == "__main__":
    main()
