"""The clients against real servers: what they promise, and through which faults."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ring.ring_servers import eventually
from ring.rings import FENCE, AsyncRing, Ring, TestRing, command, forked
from support.tools import tool

from mmapcache.ring import (
    HoldersFull,
    NoHolderReachable,
    Number,
    RingError,
    Unsupported,
    Written,
)

IDS = ("a", "b", "c")
PATIENT: Any = {"timeout": 5.0, "deadline": 30.0}  # for a busy machine
HANGING: Any = {"timeout": 1.0, "deadline": 30.0}  # where a node really does not answer


@pytest.fixture(scope="module")
def shared(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestRing]:
    """A ring of three. Tests use keys of their own, and leave it whole."""
    made = TestRing(kind, tmp_path_factory.mktemp("ring"), IDS)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def ring(shared: TestRing) -> Iterator[Ring]:
    with Ring(shared.path, **PATIENT) as made:
        yield made


@pytest.fixture
def own(shared: TestRing) -> Iterator[TestRing]:
    """The same one, for a test that may do anything to it."""
    shared.recover()
    yield shared
    shared.recover()


def test_all_operations(ring: Ring, shared: TestRing) -> None:
    assert ring.set("op", "v") == Written(2, False)
    assert ring.get("op") == b"v"
    assert ring.get("op", with_source=True) == (b"v", ring.where("op")[0])
    assert ring.ttl("op") == ring.pttl("op") == -1
    assert ring.expire("op", 100).existed
    assert 90 < ring.ttl("op") <= 100
    assert 90_000 < ring.pttl("op") <= 100_000
    assert ring.exists("op", "op none") == 1
    copies = shared.copies("op")
    assert set(copies) == set(ring.where("op"))
    assert len(set(copies.values())) == 1
    assert ring.delete("op").existed
    assert not ring.delete("op").existed
    assert ring.get("op") is None
    assert ring.ttl("op") == -2
    number = ring.incr("count")
    assert isinstance(number, Number)
    assert (number, number.copies, number.degraded) == (1, 2, False)
    assert ring.incrby("count", 10) == 11
    assert ring.decr("count", 2) == 9
    assert len(set(shared.copies("count").values())) == 1
    values = {f"many {i}": i for i in range(1200)}
    assert ring.mset(values, ex=1000) == Written(2, False)
    assert ring.mget(list(values)) == [b"%d" % i for i in range(1200)]
    assert ring.mget("many 1", "none", b"many 2") == [b"1", None, b"2"]
    with ring.pipeline() as pipe:
        pipe.set("p1", 1).get("many 3").incr("p2").delete("many 4").exists("many 5")
        written, value, count, deleted, there = pipe.execute()
    assert (written, value, count, there) == (Written(2, False), b"3", 1, 1)
    assert deleted.existed
    assert ring.epoch == 1
    assert ring.nodes["a"] == (f"127.0.0.1:{shared.ports['a']}", "ready")
    assert ring.age is not None


def test_values_of_every_size(ring: Ring) -> None:
    for size in (0, 1, 100, 70_000, 1 << 20):
        value = bytes(range(256)) * (size // 256 + 1)
        assert ring.set(b"size \xff\r\n\x00", value[:size]) == Written(2, False)
        assert ring.get(b"size \xff\r\n\x00") == value[:size]


def test_times(ring: Ring) -> None:
    now = time.time()
    ring.set("t", "v", px=100)
    eventually("it ends", lambda: ring.get("t") is None)
    ring.set("t", "v", exat=int(now) + 1000)
    assert 900 < ring.ttl("t") <= 1000
    ring.set("t", "v", pxat=int(now * 1000) + 1_000_000)
    assert 900 < ring.ttl("t") <= 1000
    ring.set("t", "v")
    assert ring.ttl("t") == -1
    ring.expire("t", 0)
    assert ring.get("t") is None
    for wrong in ({"ex": 0}, {"ex": 1, "px": 1}, {"pxat": -5}):
        with pytest.raises(ValueError, match="ex"):
            ring.set("t", "v", **wrong)


def test_errors_name_the_key_and_the_node(ring: Ring) -> None:
    ring.set("word", "x")
    with pytest.raises(RingError, match=r"'word': .*number"):
        ring.incr("word")
    for name in ("hset", "setnx", "eval", "publish", "keys", "setex"):
        with pytest.raises(Unsupported, match=name):
            getattr(ring, name)("k", "v")
    with pytest.raises(Unsupported, match="nx"):
        ring.set("k", "v", nx=True)
    with pytest.raises(AttributeError, match="frobnicate"):
        ring.frobnicate("k")
    with pytest.raises(TypeError, match="bool"):
        ring.set("k", True)
    with pytest.raises(TypeError, match="None"):
        ring.get(None)  # type: ignore[call-overload]


def test_text(shared: TestRing) -> None:
    with Ring(shared.path, **PATIENT, decode_responses=True) as ring:
        ring.set("ü", "ä")
        assert ring.get("ü") == "ä"
        assert ring.mget(["ü", "none at all"]) == ["ä", None]


def test_a_fork_has_connections_of_its_own(ring: Ring, shared: TestRing) -> None:
    ring.set("fork", 0)

    ports = set(shared.ports.values())
    assert connections(ports)

    def child() -> Any:
        assert not connections(ports)
        for _ in range(200):
            ring.incr("fork child")
        return [ring.get("fork").decode(), ring.set("fork child set", 1).copies]

    with forked(child) as first, forked(child) as second:
        for i in range(200):
            assert ring.set("fork", i) == Written(2, False)
            assert ring.get("fork") == b"%d" % i
        assert first()[1] == second()[1] == 2
    assert ring.get("fork child") == b"400"


def test_asyncio(shared: TestRing) -> None:
    async def main() -> None:
        async with AsyncRing(shared.path, **PATIENT) as ring:
            values = [f"value {i}" * 10 for i in range(300)]
            sets = [ring.set(f"a{i}", value, ex=100) for i, value in enumerate(values)]
            assert set(await asyncio.gather(*sets)) == {Written(2, False)}
            gets = [ring.get(f"a{i}") for i in range(300)]
            assert await asyncio.gather(*gets) == [value.encode() for value in values]
            assert await ring.get("a1", with_source=True) == (
                values[1].encode(),
                ring.where("a1")[0],
            )
            assert await ring.mget([f"a{i}" for i in range(300)]) == [v.encode() for v in values]
            assert await ring.mset({"m1": 1, "m2": 2}) == Written(2, False)
            counts = await asyncio.gather(*[ring.incr("acount") for _ in range(50)])
            assert sorted(counts) == list(range(1, 51))
            assert (await ring.decr("acount", 10)) == 40
            assert (await ring.delete("m1")).existed
            assert (await ring.expire("m2", 100)).existed
            assert 0 < await ring.ttl("m2") <= 100
            assert await ring.pttl("m2") > 1000
            assert await ring.exists("m1", "m2") == 1
            async with ring.pipeline() as pipe:
                pipe.set("ap", 1).incr("ap2").get("m2")
                assert await pipe.execute() == [Written(2, False), 1, b"2"]
            big = b"x" * (1 << 20)
            await asyncio.gather(*[ring.set(f"big{i}", big) for i in range(8)])
            assert await ring.mget([f"big{i}" for i in range(8)]) == [big] * 8
            # A task that is cancelled leaves the replies of the others where they belong.
            tasks = [asyncio.ensure_future(ring.get(f"a{i}")) for i in range(100)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert done[1::2] == [value.encode() for value in values[1:100:2]]
            with pytest.raises(Unsupported, match="hget"):
                ring.hget("k", "f")

    asyncio.run(main())
    asyncio.run(main_again(shared))


def test_threads_share_a_client(ring: Ring) -> None:
    def work(number: int) -> int:
        for i in range(100):
            key, value = f"t{number}.{i % 7}", b"%d.%d" % (number, i)
            assert ring.set(key, value) == Written(2, False)
            assert ring.get(key) == value
            assert ring.mget([key, f"t{number} none"]) == [value, None]
            ring.incr("threads")
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))
    assert ring.get("threads") == b"800"


def test_a_fork_beside_asyncio(shared: TestRing) -> None:
    ports = set(shared.ports.values())

    async def main() -> None:
        async with AsyncRing(shared.path, **PATIENT) as ring:
            await ring.mset({f"f{i}": i for i in range(50)})
            assert connections(ports)

            def child() -> Any:
                asyncio.events._set_running_loop(None)
                inherited = len(connections(ports))

                async def use() -> Any:
                    return (await ring.get("f7")).decode(), (await ring.set("f8", "child")).copies

                return [inherited, *asyncio.run(use())]

            with forked(child) as result:
                for _ in range(100):
                    assert await ring.get("f7") == b"7"
                assert await asyncio.to_thread(result) == [0, "7", 2]
            assert await ring.get("f8") == b"child"

    asyncio.run(main())


def connections(ports: set[int]) -> list[int]:
    """Descriptors of this process that are connected to one of the ports."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        number = int(path.name)
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as copy:
                if copy.family == socket.AF_INET and copy.getpeername()[1] in ports:
                    found.append(number)
    return found


async def main_again(shared: TestRing) -> None:
    """Another loop of the same process."""
    async with AsyncRing(shared.path, **PATIENT) as ring:
        assert await ring.get("acount") == b"40"


def keys_of(ring: Ring, first: str, count: int) -> list[str]:
    """Keys whose primary is the node."""
    names = (f"key {i}" for i in range(100_000))
    return list(itertools.islice((key for key in names if ring.where(key)[0] == first), count))


def test_kill_and_an_empty_return(own: TestRing) -> None:
    with Ring(own.path, **PATIENT) as ring:
        keys = keys_of(ring, "a", 100)
        for key in keys:
            assert ring.set(key, key) == Written(2, False)
        own.servers["a"].kill()
        for key in keys:
            assert ring.get(key) == key.encode()
        new = ring.set(keys[0], "new")
        assert (new.copies, new.degraded) == (1, True)
        assert ring.delete(keys[1]).degraded
        assert ring.incr("count on a survivor") == 1
        own.servers["a"].start()
        for _ in range(3):  # whatever state it is in
            assert ring.mget(keys[2:]) == [key.encode() for key in keys[2:]]
            assert ring.get(keys[0]) == b"new"
            assert ring.get(keys[1]) is None
        own.wait_ready()
        eventually("the copies are alike", lambda: len(set(own.copies(keys[0]).values())) == 1)
        assert set(own.copies(keys[0])) == set(ring.where(keys[0]))
        assert set(own.copies(keys[5])) == set(ring.where(keys[5]))
        assert ring.get(keys[0], with_source=True) == (b"new", "a")
        assert ring.get(keys[1]) is None
        assert ring.counts.unrecorded == 0


def test_what_a_node_missed_is_brought_to_it(own: TestRing) -> None:
    """As when one client cannot reach a node that all others reach."""
    with Ring(own.path, **PATIENT) as ring:
        keys = keys_of(ring, "a", 1500)
        ring.mset(dict.fromkeys(keys, "old"))
        peer = ring._core.view().first(keys[0].encode())
        peer.failed(time.monotonic() + 3600, slow=True)
        assert ring.mset(dict.fromkeys(keys[1:], "new")) == Written(1, True)
        assert ring.delete(keys[0]).degraded
        assert ring.counts.unrecorded == 0
    with Ring(own.path, **PATIENT) as ring:
        expected = [None, *[b"new"] * (len(keys) - 1)]
        eventually("the agent brings it", lambda: ring.mget(keys) == expected)
        assert ring.get(keys[1], with_source=True) == (b"new", "a")
        assert len(set(own.copies(keys[0]).values())) == 1


@pytest.mark.every
def test_a_hang_longer_than_the_fence(own: TestRing) -> None:
    """What was queued in its sockets is not executed, and it is filled anew."""
    with Ring(own.path, **HANGING) as ring:
        keys = keys_of(ring, "a", 50)
        for key in keys:
            ring.set(key, "old")
        with own.servers["a"].stopped():
            began = time.monotonic()
            for key in keys:
                assert ring.get(key) == b"old"
                assert ring.set(key, "new").degraded
            while time.monotonic() - began < 2 * FENCE / 1000:
                time.sleep(0.05)
        for _ in range(20):
            assert ring.mget(keys) == [b"new"] * 50
        own.wait_ready()
        assert ring.mget(keys) == [b"new"] * 50
        for key in keys[:5]:
            copies = own.copies(key)
            assert set(copies) == set(ring.where(key))
            assert len(set(copies.values())) == 1


@pytest.mark.every
def test_an_old_dump_is_never_served(own: TestRing) -> None:
    with Ring(own.path, **PATIENT) as ring:
        keys = keys_of(ring, "a", 50)
        for key in keys:
            ring.set(key, "old")
        own.servers["a"].connect()("SAVE")
        for key in keys:
            ring.set(key, "new")
        own.servers["a"].kill()
        assert (own.servers["a"].folder / "dump.rdb").exists()
        own.servers["a"].start()
        while ring.nodes["a"][1] != "ready" or ring.get(keys[0], with_source=True)[1] != "a":
            assert ring.mget(keys) == [b"new"] * 50
        assert ring.mget(keys) == [b"new"] * 50


def test_full_servers(own: TestRing) -> None:
    with Ring(own.path, **PATIENT) as ring:
        ring.set("k", "old")
        ring.incr("n")
        first, second = (own.servers[name].connect() for name in ring.where("k"))
        assert first("CONFIG", "SET", "maxmemory", "1") == "OK"
        written = ring.set("k", "new")
        assert (written.copies, written.degraded) == (1, True)
        assert ring.get("k", with_source=True) == (b"new", ring.where("k")[1])
        assert ring.mget(["k", "none"]) == [b"new", None]
        assert ring.delete("k")
        assert ring.get("k") is None
        assert second("CONFIG", "SET", "maxmemory", "1") == "OK"
        with pytest.raises(HoldersFull, match="'k'"):
            ring.set("k", "newer")
        for connection in (first, second):
            connection("CONFIG", "SET", "maxmemory", "0")
        assert ring.set("k", "newest") == Written(2, False)
        # With eviction on, a miss of one holder is not final.
        first = own.servers[ring.where("k")[0]].connect()
        first("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        first("CONFIG", "SET", "maxmemory", "1")
        eventually("it is evicted", lambda: first("DBSIZE") == 0 or ring.set("x", 1) is None)
        first("CONFIG", "SET", "maxmemory", "0")
        assert ring.get("k", with_source=True) == (b"newest", ring.where("k")[1])


def test_what_a_full_server_refused_is_brought_when_it_has_memory(own: TestRing) -> None:
    async def write(key: str) -> Written:
        async with AsyncRing(own.path, **PATIENT) as ring:
            written: Written = await ring.set(key, "v")
            return written

    def owed() -> int:
        """Keys that are noted for a."""
        notes = [own.servers[name].info().get("owed_a", "keys=0,") for name in "bc"]
        return sum(int(each.split(",")[0].removeprefix("keys=")) for each in notes)

    with Ring(own.path, **PATIENT) as ring:
        keys = [f"full {number}" for number in range(60)]
        keys = [key for key in keys if "a" in ring.where(key)][:12]
        ring.mset(dict.fromkeys(keys[:6], 1))
        with contextlib.closing(own.servers["a"].connect()) as a:
            a("CONFIG", "SET", "maxmemory", "1")
            done: list[Any] = [ring.set(keys[0], "v"), ring.incr(keys[1]), ring.expire(keys[2], 99)]
            done += [ring.delete(keys[6]), ring.incr(keys[7]), ring.mset({keys[8]: "v"})]
            done += ring.pipeline().set(keys[3], "v").incr(keys[4]).delete(keys[9]).execute()
            done += [asyncio.run(write(keys[5])), asyncio.run(write(keys[10]))]
            assert [(each.copies, each.degraded) for each in done] == [(1, True)] * 11
            assert owed() == 11
            time.sleep(1.5)  # some rounds of the agent
            assert owed() == 11
            a("CONFIG", "SET", "maxmemory", "0")
        assert ring.counts.unrecorded == 0
    eventually("nothing is owed", lambda: owed() == 0)
    copies = {key: own.copies(key) for key in keys[:11]}
    assert all("a" in each and len(each) == 2 for each in copies.values())
    assert all(len(set(each.values())) == 1 for each in copies.values()), copies


def refused(ring: TestRing, why: str, **options: Any) -> str:
    """What a client says that no node lets in, which is to match `why`; whoever cannot learn that
    within his deadline, on a busy machine, is given a longer one."""
    said = ""
    for seconds in (0.3, 1.0, 4.0, 15.0):
        with (
            Ring(ring.path, timeout=seconds, deadline=seconds, **options) as client,
            pytest.raises(NoHolderReachable) as caught,
        ):
            client.get("k")
        said = str(caught.value)
        if re.search(why, said):
            break
    assert re.search(why, said)
    return said


def test_a_password(own: TestRing) -> None:
    with Ring(own.path, **PATIENT) as ring:
        ring.set("k", "v")
    for server in own.servers.values():
        connection = server.connect()
        assert connection("CONFIG", "SET", "requirepass", "secret") == "OK"
        assert connection("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0
    refused(own, "Authentication required")
    assert "wrong" not in refused(own, r"(?i)invalid.*password", password="wrong")
    with Ring(own.path, password="secret", username="default", **PATIENT) as ring:
        assert ring.get("k") == b"v"

    async def main() -> None:
        async with AsyncRing(own.path, password="secret", **PATIENT) as ring:
            assert await ring.get("k") == b"v"

    asyncio.run(main())
    secret = own.folder / "secret"
    secret.write_text("secret\n")
    words = ["where", "k", str(own.path), "--copies", "--json"]
    assert "Authentication" in command(*words).stdout
    assert '"kind":"value"' in command(*words, "--password-file", str(secret)).stdout
    for server in own.servers.values():
        with contextlib.closing(server.connect(hello=False)) as connection:
            connection("AUTH", "secret")
            connection("CONFIG", "SET", "requirepass", "")


def test_tls(kind: str, tmp_path: Path) -> None:
    tool("openssl", "apt install openssl")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    tls = [f"tls-cert-file {cert}", f"tls-key-file {key}", f"tls-ca-cert-file {cert}"]
    words = ["--tls", "--tls-ca", str(cert)]
    ring = TestRing(kind, tmp_path, IDS, agent=words, tls=[*tls, "tls-auth-clients no"])
    try:
        try:
            ring.start()
        except AssertionError as error:
            if "TLS support" in str(error):
                pytest.skip(f"this {kind} was built without TLS")
            raise
        with Ring(ring.path, ssl={"ssl_ca_certs": str(cert)}, **PATIENT) as client:
            assert client.set("k", b"x" * 100_000) == Written(2, False)
            assert client.get("k") == b"x" * 100_000

        async def main() -> None:
            ssl = {"ssl_ca_certs": str(cert)}
            async with AsyncRing(ring.path, ssl=ssl, **PATIENT) as client:
                assert await client.get("k") == b"x" * 100_000
                written = await asyncio.gather(*[client.set(f"k{i}", i) for i in range(50)])
                assert set(written) == {Written(2, False)}

        asyncio.run(main())
        refused(ring, "certificate", ssl=True)
    finally:
        ring.stop()


@pytest.mark.every
def test_nobody_there_is_an_error_within_the_deadline(own: TestRing) -> None:
    with Ring(own.path, **PATIENT) as ring:
        ring.set("k", "v")
    with Ring(own.path, timeout=0.1, deadline=0.5) as ring:
        for server in own.servers.values():
            server.kill()
        for call in (lambda: ring.get("k"), lambda: ring.set("k", "w"), lambda: ring.incr("k")):
            with pytest.raises(NoHolderReachable, match=r"'k'.*127\.0\.0\.1"):
                call()

        async def main() -> None:
            async with AsyncRing(own.path, timeout=0.1, deadline=0.5) as other:
                with pytest.raises(NoHolderReachable, match=r"'k'.*127\.0\.0\.1"):
                    await other.get("k")

        asyncio.run(main())


@pytest.mark.every
def test_asyncio_through_a_kill_and_a_hang(own: TestRing) -> None:
    async def main() -> None:
        async with AsyncRing(own.path, **HANGING) as ring:
            keys = [f"k{i}" for i in range(300)]
            await ring.mset({key: key for key in keys})
            own.servers["a"].kill()
            values = await asyncio.gather(*[ring.get(key) for key in keys])
            assert values == [key.encode() for key in keys]
            with own.servers["b"].stopped():
                values = await asyncio.gather(
                    *[ring.get(key) for key in keys if "c" in ring.where(key)]
                )
                assert None not in values
            written = await asyncio.gather(*[ring.set(key, "new") for key in keys])
            assert all(written)

    asyncio.run(main())
