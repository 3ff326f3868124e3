"""Sub-interpreters, with a lock of their own where Python has that, and importing again."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import pytest
from support.caches import make_cache
from support.processes import run_script

pytest.importorskip("bson")

# One function for every version: run(code, own_lock) in a new interpreter, destroyed afterwards.
PRELUDE = """
import sys
try:
    import _interpreters                     # 3.13
    def run(code, own_lock=False):
        one = _interpreters.create("isolated" if own_lock else "legacy")
        failed = _interpreters.exec(one, code)
        assert failed is None, failed
        _interpreters.destroy(one)
except ImportError:
    import _xxsubinterpreters                # 3.10, 3.11, 3.12
    def run(code, own_lock=False):
        one = _xxsubinterpreters.create(isolated=own_lock)
        failed = _xxsubinterpreters.run_string(one, code)
        assert failed is None, failed
        _xxsubinterpreters.destroy(one)
path = sys.argv[1]
code = '''
import sys
import mmapcache
cache = mmapcache.open({path!r})
sites = cache["sites"]
assert sites["a"]["limits"]["qps"] == 5
assert sites["a"] is sites["a"]
assert "datetime" not in sys.modules
since = sites["a"]["since"]
assert (since.year, since.microsecond, since.tzinfo) == (2024, 5000, None)
assert sites.get(since) is None
import datetime
assert type(since) is datetime.datetime
assert sites.get_many(["a", 1]).keys() == {{"a"}}
assert sites.get("nothing") is None
with cache.snapshot() as snap:
    assert list(snap["sites"]) == ["a"]
try:
    mmapcache.open({path!r} + "x")
except mmapcache.NotReadyError:
    pass
assert cache.check()["generation"] == 1
'''.format(path=path)
"""


SINCE = datetime(2024, 1, 1, microsecond=5000)


@pytest.fixture
def path(cache_path: Path) -> str:
    make_cache(cache_path, {"_id": "a", "limits": {"qps": 5}, "since": SINCE})
    return str(cache_path)


own_lock = pytest.mark.skipif(
    sys.version_info < (3, 12),
    reason="before Python 3.12 all interpreters share one lock",
)


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=own_lock)])
def test_read_in_a_subinterpreter(path: str, isolated: bool) -> None:
    # more than one: what each leaves behind must not harm the next
    script = f"import mmapcache\nfor _ in range(3):\n    run(code, {isolated})\nexec(code)"
    run_script(PRELUDE + script, path)


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=own_lock)])
def test_write_in_a_subinterpreter(path: str, isolated: bool) -> None:
    script = """
raw = bytes.fromhex("10000000025f69640002000000620000")
writing = f'''
import mmapcache
with mmapcache.Writer({path!r}) as writer, writer.batch() as batch:
    batch.put("sites", "b", {raw!r})
    batch.put_raw("sites", {raw!r})
'''
import mmapcache
cache = mmapcache.open(path)
assert cache.generation == 1
run(writing, ISOLATED)
assert cache["sites"]["b"] == {"_id": "b"}
"""
    run_script(PRELUDE + script.replace("ISOLATED", str(isolated)), path)


@own_lock
def test_two_interpreters_read_at_once(path: str) -> None:
    """The main one and one with its own lock. No more: CPython 3.13.0 itself crashes when
    several interpreters with their own lock import datetime at once."""
    script = """
import threading
many = '''
for _ in range(100000):
    assert sites.get("a")["limits"]["qps"] == 5
    assert sites.get_many(["a", "b"]).keys() == {"a"}
'''
exec(code)
failures = []
def work():
    try:
        run(code + many, True)
    except BaseException as error:
        failures.append(error)
thread = threading.Thread(target=work)
thread.start()
while thread.is_alive():
    assert sites.get("a")["limits"]["qps"] == 5
    assert sites.get_many(["a", "b"]).keys() == {"a"}
thread.join()
assert not failures, failures
"""
    run_script(PRELUDE + script, path)


@own_lock
def test_a_date_key_in_an_own_lock_is_the_same_key(path: str) -> None:
    script = """
writing = f'''
import mmapcache
empty = bytes([5, 0, 0, 0, 0])
from datetime import datetime, timedelta, timezone
with mmapcache.Writer({path!r}) as writer, writer.batch() as batch:
    batch.put("dates", datetime(1969, 12, 31, 23, 59, 59, 999999), empty)
    batch.put("dates", datetime(2024, 2, 29, 1, tzinfo=timezone(timedelta(hours=2))), empty)
'''
run(writing, True)
import mmapcache
from datetime import datetime
dates = mmapcache.open(path)["dates"]
assert set(dates) == {datetime(1969, 12, 31, 23, 59, 59, 999000), datetime(2024, 2, 28, 23)}
"""
    run_script(PRELUDE + script, path)


def test_datetime_is_imported_when_a_date_is_read(path: str) -> None:
    script = """
import sys
import mmapcache
site = mmapcache.open(sys.argv[1])["sites"]["a"]
assert site["limits"]["qps"] == 5
assert "datetime" not in sys.modules
assert type(site["since"]) is sys.modules["datetime"].datetime
"""
    run_script(script, path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_many_interpreters_come_and_go(path: str) -> None:
    script = """
def resident():
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("RssAnon"):
                return int(line.split()[1])

def cycle(code, count):
    for _ in range(count):
        run(code)
    return resident()

def growth(code):
    '''KiB that 60 cycles add once the first 40 are over.'''
    before = cycle(code, 40)
    return cycle(code, 60) - before

empty = growth("import collections.abc, uuid, datetime")
ours = growth(code)
maps = open("/proc/self/maps").read().count(path)
print(empty, ours, maps)
assert maps == 0, maps
assert ours <= empty + 3000, (empty, ours)
"""
    run_script(PRELUDE + script, path, timeout=360)


def test_import_again(path: str) -> None:
    script = """
import gc, sys
def load():
    for name in [name for name in sys.modules if name.split(".")[0] == "mmapcache"]:
        del sys.modules[name]
    import mmapcache
    return mmapcache
first = load()
cache = first.open(sys.argv[1])
document = cache["sites"]["a"]
for _ in range(5):
    again = load()
    assert again is not first
    assert again.Cache is not first.Cache
    assert again.open(sys.argv[1])["sites"]["a"].to_dict() == document.to_dict()
    try:
        again.open(sys.argv[1] + "x")
    except first.NotReadyError:
        raise AssertionError("exceptions are shared")
    except again.NotReadyError:
        pass
del first, again
gc.collect()
assert cache["sites"]["a"] is document
assert document["limits"]["qps"] == 5
try:
    cache["nothing"]
except KeyError:
    pass
"""
    run_script(script, path)
