"""What a wheel has to do where it is installed: `python wheel_smoke.py FOLDER WROTE OTHER...`.

Run by each interpreter for which there is a wheel, the emulated ones included, with nothing but the
standard library. Opens, puts, commits, reads in this process and in a forked child, reads the files
OTHER that other builds wrote, and checks all of them. WROTE is left for the next build. FOLDER is
where the wheel was unpacked, or `installed`. Prints `ok` and whose build it was.
"""

import os
import sys
import sysconfig
from pathlib import Path

if sys.argv[1] != "installed":
    sys.path.insert(0, sys.argv[1])
import mmapcache
from mmapcache.ring import _ring

# {"_id": "k", "text": "é", "n": 5, "sub": {"x": [1.5, True, None]}}
DOCUMENT = bytes.fromhex(
    "48000000025f696400020000006b0002746578740003000000c3a900106e00050000000373756200"
    "1f00000004780017000000013000000000000000f83f083100010a3200000000"
)
KEYS = 300  # more than a table begins with, so it has grown


def look(cache: mmapcache.Cache) -> None:
    """What every build must find in a file of any build."""
    sites = cache["sites"]
    assert len(sites) == KEYS + 1, len(sites)
    document = sites["k"]
    assert document == {"_id": "k", "text": "é", "n": 5, "sub": {"x": [1.5, True, None]}}
    assert document["sub"]["x"][0] == 1.5 and sites.get_raw("k") == DOCUMENT
    assert all(sites[number]["n"] == 5 for number in range(KEYS)) and KEYS not in sites


def in_a_child(cache: mmapcache.Cache) -> None:
    """The same in a forked child, with what was opened before the fork."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            look(cache)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0, "the forked child did not find what its parent did"


def main() -> None:
    """Fails with a traceback."""
    _, folder, wrote, *others = sys.argv
    extension = Path(sys.modules["mmapcache._mmapcache"].__file__ or "").resolve()
    unpacked = folder != "installed"
    assert not unpacked or Path(folder).resolve() in extension.parents, f"imported {extension}"
    assert extension.parent / "ring" == Path(_ring.__file__ or "").resolve().parent
    with mmapcache.Writer(wrote, max_size="8MiB") as writer:
        with writer.batch() as batch:
            batch.put("sites", "k", DOCUMENT)
            for number in range(KEYS):
                batch.put("sites", number, DOCUMENT)
        with mmapcache.open(wrote) as cache:
            look(cache)
            in_a_child(cache)
            with writer.batch() as batch:
                batch.put("sites", "more", DOCUMENT)
            assert "more" in cache["sites"]
            with writer.batch() as batch:
                batch.delete("sites", "more")
    for path in (wrote, *others):
        with mmapcache.open(path) as cache:
            look(cache)
            cache.check()
    # One of the vectors of docs/ring.md.
    assert _ring.Placement([*"abcde"]).pair("key:1") == (4, 2), "placement is another one here"
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"ok: CPython {version} {sysconfig.get_config_var('SOABI')}, {os.uname().machine}")


main()
