"""The front cache: the same objects, bounded memory, never an answer of another generation."""

from __future__ import annotations

import os
import random
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from support.caches import fill
from support.processes import in_child

import mmapcache

bson = pytest.importorskip("bson")


@pytest.fixture
def writer(writer: mmapcache.Writer) -> mmapcache.Writer:
    fill(writer, "sites", *({"_id": f"key {n}", "n": n} for n in range(2000)))
    return writer


def change(writer: mmapcache.Writer, **documents: Any) -> None:
    with writer.batch() as batch:
        for key, value in documents.items():
            batch.put("sites", key.replace("_", " "), {"_id": key, "n": value})


def fresh(text: str) -> str:
    """An equal str that nobody has hashed or seen."""
    return "".join(list(text))


def front(cache: mmapcache.Cache) -> dict[str, Any]:
    return dict(cache.stats()["front_cache"])


def test_repeated_reads_give_the_same_object(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache["sites"]
    key = "key 5"
    document = sites[key]
    assert sites[key] is sites.get(key) is sites[fresh(key)] is document
    assert cache["sites"].get_many([fresh(key)])[key] is document
    with cache.snapshot() as snap:
        assert snap["sites"][key] is document
        assert snap["sites"][fresh(key)] is document
    assert document["n"] == 5


@pytest.mark.parametrize("kind", ["str", "hashed str", "int", "bytes", "ObjectId", "float"])
def test_every_kind_of_key(writer: mmapcache.Writer, kind: str) -> None:
    keys: dict[str, list[Any]] = {
        "str": ["a", "é", "long " * 100],
        "hashed str": ["a", "é", "long " * 100],
        "int": [1, 2**40, -(2**60)],
        "bytes": [b"a", b"b" * 500],
        "ObjectId": [bson.ObjectId(), bson.ObjectId()],
        "float": [1.5, 2.5],
    }
    with writer.batch() as batch:
        for key in keys[kind]:
            batch.put("keys", key, {"_id": key})
    cache = writer.reader()
    collection = cache["keys"]
    for key in keys[kind]:
        if kind == "hashed str":
            hash(key)
        first = collection[key]
        assert first["_id"] == key
        assert collection[key] is first
        assert collection[key] is first
    assert front(cache)["entries"] == len(keys[kind])


def test_missing_keys_are_remembered(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache["sites"]
    for _ in range(10):
        assert sites.get("new key") is None
        assert sites.get(fresh("new key"), 5) == 5
        assert "new key" not in sites
        with pytest.raises(KeyError):
            sites["new key"]
    assert front(cache)["misses"] == 1
    assert front(cache)["hits"] >= 20
    change(writer, new_key=1)
    assert sites["new key"]["n"] == 1
    with writer.batch() as batch:
        batch.delete("sites", "new key")
    assert sites.get("new key") is None


def test_after_a_commit_unchanged_keys_keep_their_objects(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache["sites"]
    keys = list(sites)
    before = {key: sites[key] for key in keys}
    change(writer, key_7=70, key_8=8000)
    with writer.batch() as batch:
        batch.delete("sites", "key 9")
        batch.delete("sites", "key 10")
        batch.put("sites", "key 10", {"_id": "key 10", "n": 10})
    changed = {"key 7", "key 8", "key 9", "key 10"}
    for key in keys:
        if key not in changed:
            assert sites[key] is before[key]
    assert sites["key 7"]["n"] == 70
    assert sites["key 8"]["n"] == 8000
    assert sites.get("key 9") is None
    assert sites["key 10"] == {"_id": "key 10", "n": 10}
    counts = front(cache)
    assert counts["revalidations"] >= len(keys) - 4
    assert counts["entries"] <= len(keys)


def test_a_commit_elsewhere_changes_nothing_here(writer: mmapcache.Writer) -> None:
    """No key of another collection is asked for, live or in a snapshot, there or missing."""
    cache = writer.reader()
    keys = list(cache["sites"])[:500]
    missing = [f"no {n}" for n in range(50)]

    def read(sites: mmapcache.Collection) -> list[Any]:
        """Each by the object that was seen before, and by an equal one."""
        assert [sites.get(key) for key in missing] == [None] * 50
        assert fresh(missing[0]) not in sites
        assert list(sites.get_many(keys).values()) == [sites[fresh(key)] for key in keys]
        return [sites[key] for key in keys]

    before = read(cache["sites"])
    asked = front(cache)
    for turn in range(5):
        with writer.batch() as batch:
            batch.put("flags", turn, {"_id": turn})
        with cache.snapshot() as snap:
            for sites in (cache["sites"], snap["sites"]):
                assert all(new is old for new, old in zip(read(sites), before, strict=True))
        with cache.snapshot() as snap:
            with writer.batch() as batch:
                batch.put("flags", -turn, {"_id": -turn})
            for sites in (snap["sites"], cache["sites"]):
                assert all(new is old for new, old in zip(read(sites), before, strict=True))
    now = front(cache)
    assert now["misses"] == asked["misses"]
    assert now["revalidations"] == asked["revalidations"]


def test_a_replace_keeps_what_did_not_change(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache["sites"]
    before = {key: sites[key] for key in list(sites)[:500]}
    with writer.batch() as batch, batch.replace("sites") as full:
        for n in range(2000):
            full.put(f"key {n}", {"_id": f"key {n}", "n": n if n else -1})
    for key, document in before.items():
        assert (sites[key] is document) == (key != "key 0")


def test_collections_do_not_mix(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        batch.put("flags", "key 5", {"_id": "key 5", "flag": True})
    cache = writer.reader()
    key = "key 5"
    for _ in range(3):
        assert cache["sites"][key]["n"] == 5
        assert cache["flags"][key]["flag"] is True
        assert cache.collection("nothing").get(key) is None


def test_codec_options_do_not_mix(writer: mmapcache.Writer) -> None:
    import datetime

    from bson.codec_options import CodecOptions

    moment = datetime.datetime(2024, 5, 6)
    with writer.batch() as batch:
        batch.put("times", 1, {"_id": 1, "at": moment})
    cache = writer.reader()
    aware: Any = CodecOptions(tz_aware=True)
    for _ in range(3):
        assert cache["times"][1]["at"].tzinfo is None
        assert cache.collection("times", aware)[1]["at"].tzinfo is not None


def test_snapshots_see_their_own_generation(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache["sites"]
    key = "key 5"
    assert sites[key]["n"] == 5
    assert sites.get("later") is None
    with cache.snapshot() as old:
        change(writer, key_5=6, later=1)
        for _ in range(3):
            assert sites[key]["n"] == 6
            assert old["sites"][key]["n"] == 5
            assert sites["later"]["n"] == 1
            assert old["sites"].get("later") is None
            assert old["sites"].get_many([key, "later"])[key]["n"] == 5
            assert old["sites"].pluck(key, "n") == 5
        with cache.snapshot() as new:
            change(writer, key_5=7)
            for _ in range(2):
                assert [s["sites"][key]["n"] for s in (old, new)] == [5, 6]
                assert sites[key]["n"] == 7
            with writer.batch() as batch:
                batch.delete("sites", key)
            for _ in range(2):
                assert sites.get(key) is None
                assert [s["sites"][key]["n"] for s in (new, old)] == [6, 5]


def test_an_old_snapshot_does_not_push_out_what_is_current(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache["sites"]
    key = "key 5"
    with cache.snapshot() as old:
        change(writer, key_5=6)
        document = sites[key]
        assert document["n"] == 6
        assert old["sites"][key]["n"] == 5
        assert sites[key] is document


def test_what_an_old_snapshot_says_is_no_news(writer: mmapcache.Writer) -> None:
    """It is asked for after the change log has told the live collection of the key's change."""
    cache = writer.reader()
    sites = cache["sites"]
    known = [f"key {n}" for n in range(100, 140)]
    documents = [sites[key] for key in known]
    with cache.snapshot() as old:
        change(writer, key_2=20, key_3=30, later=1)
        assert sites["key 100"] is documents[0]
        assert old["sites"]["key 2"]["n"] == 2
        assert bson.decode(old["sites"].get_raw("key 3"))["n"] == 3
        assert old["sites"].get("later") is None
        for _ in range(2):
            assert sites["key 2"]["n"] == 20
            assert bson.decode(sites.get_raw("key 3"))["n"] == 30
            assert sites["later"]["n"] == 1
    assert [sites[key] for key in known] == documents


def test_an_old_snapshot_finds_what_it_knew_and_no_more(writer: mmapcache.Writer) -> None:
    """What it is asked for again was right in its generation, and has changed since."""
    cache = writer.reader()
    sites = cache["sites"]
    for n in range(100, 140):
        assert sites[f"key {n}"]["n"] == n
    assert sites["key 3"]["n"] == 3
    raw = sites.get_raw("key 3")
    change(writer, key_4=40)
    with cache.snapshot() as middle:
        change(writer, key_3=30)
        assert sites["key 100"]["n"] == 100
        assert middle["sites"]["key 3"]["n"] == 3
        assert middle["sites"].get_raw("key 3") == raw
        for _ in range(2):
            assert sites["key 3"]["n"] == 30
            assert bson.decode(sites.get_raw("key 3"))["n"] == 30


def test_what_a_destructor_reads_is_not_forgotten(cache_path: Path) -> None:
    """Room is made for a document, and at the end of another one somebody reads its change."""
    with mmapcache.Writer(cache_path) as writer:
        codes = [{"_id": f"key {n}", "n": n, "code": bson.Code(str(n))} for n in range(20)]
        fill(writer, "sites", *codes)
        sites = writer.reader(front_entries=8).collection("sites")
        asked, ended = "", 0

        def ends(_: object) -> None:
            nonlocal ended
            ended += 1
            change(writer, **{asked.replace(" ", "_"): 100 + ended})
            assert "nothing" not in sites

        watched = [weakref.ref(sites[f"key {n}"]["code"], ends) for n in range(8)]
        assert all(ref() is not None for ref in watched)
        for n in range(8, 16):
            asked, before = f"key {n}", ended
            for _ in range(4):  # it is taken in on its second visit
                assert sites[asked]["n"] >= n
            assert sites[asked]["n"] == (n if ended == before else 100 + ended)
        assert ended > 0


def test_a_destructor_may_read_the_same_key(writer: mmapcache.Writer) -> None:
    """While its new document is taken in, at the end of the old one: there is one answer after."""
    with writer.batch() as batch:
        batch.put("sites", "key", {"_id": "key", "n": 0, "code": bson.Code("x")})
    sites = writer.reader()["sites"]
    assert len(sites.get_many([f"key {n}" for n in range(300)])) == 300
    read: list[int] = []
    watched = weakref.ref(sites["key"]["code"], lambda _: read.append(sites["key"]["n"]))
    assert watched() is not None
    for n in range(1, 6):
        with writer.batch() as batch:  # longer each time: it takes another place
            batch.put("sites", "key", {"_id": "key", "n": n, "pad": "x" * 1000 * n})
        assert [sites["key"]["n"] for _ in range(3)] == [n, n, n]
    assert read == [1]


@pytest.mark.parametrize("how", ["drop", "replace", "much", "far"])
def test_what_the_log_does_not_say_is_asked_for(writer: mmapcache.Writer, how: str) -> None:
    """The collection as a whole; more keys than are worth it; more commits than the log holds."""
    cache = writer.reader()
    sites = cache["sites"]
    keys = [f"key {n}" for n in range(300)]
    for turn in range(3):
        expected = {key: (number + turn) * (number % 7) for number, key in enumerate(keys)}
        if turn == 1:
            del expected["key 5"]
        with writer.batch() as batch:
            if how == "drop":
                batch.drop("sites")
            if how == "replace":
                with batch.replace("sites") as full:
                    for key, number in expected.items():
                        full.put(key, {"_id": key, "n": number})
            else:
                for key, number in expected.items():
                    batch.put("sites", key, {"_id": key, "n": number})
                if turn == 1 and how != "drop":
                    batch.delete("sites", "key 5")
        if how == "far":
            for number in range(5000):
                writer.put("flags", number % 3, {"_id": number})
        for _ in range(2):
            assert {key: found["n"] for key in keys if (found := sites.get(key))} == expected


def test_a_commit_costs_by_what_it_changed(writer: mmapcache.Writer) -> None:
    """The other keys are not asked for, each by the object seen before or an equal one."""
    cache = writer.reader()
    sites = cache["sites"]
    documents = {f"key {n}": sites[f"key {n}"] for n in range(500)}
    assert [sites.get(f"no {n}") for n in range(50)] == [None] * 50
    for turn in range(20):
        change(writer, key_7=turn, key_8=turn, **{f"no_{turn}": turn})
        before = front(cache)["misses"]
        for key, document in documents.items():
            if key not in ("key 7", "key 8"):
                assert sites[key] is sites[fresh(key)] is document
        assert [sites.get(f"no {n}") for n in range(turn + 1, 50)] == [None] * (49 - turn)
        assert front(cache)["misses"] == before
        assert [sites[key]["n"] for key in ("key 7", "key 8", f"no {turn}")] == [turn] * 3
        assert front(cache)["misses"] == before + 3


def test_a_place_that_is_used_again_is_not_the_old_document(cache_path: Path) -> None:
    """The same key at the same offset, after its block was freed and taken again."""
    rng = random.Random(4)
    with mmapcache.Writer(cache_path, max_size="2MiB", retention=0) as writer:
        cache = writer.reader()
        sites = cache.collection("sites")
        for n in range(2000):
            change(writer, key=1_000_000 + n)
            if rng.random() < 0.3:
                assert sites["key"]["n"] == 1_000_000 + n


def test_a_page_that_is_used_again_is_not_the_old_page(cache_path: Path) -> None:
    """A key's page of the table where it was before, after its block was freed and taken again."""
    with mmapcache.Writer(cache_path, max_size="2MiB", retention=0) as writer:
        cache = writer.reader()
        sites = cache.collection("sites")
        change(writer, key=0, other=0)
        for n in range(300):
            for other in (n, n + 0.5):  # the second read knows the page
                change(writer, other=other)
                assert sites["key"]["n"] == n
                assert sites.get("missing") is None
            for turn in range(n % 5 + 1):
                change(writer, key=n + 1, other=-turn)
                change(writer, key=n + 1, other=-turn - 0.5)
            assert sites["key"]["n"] == n + 1


@pytest.mark.parametrize(
    "limits",
    [{"front_bytes": 0}, {"front_entries": 0}, {"front_bytes": "0MiB", "front_entries": 0}],
)
def test_it_can_be_turned_off(writer: mmapcache.Writer, limits: dict[str, Any]) -> None:
    cache = writer.reader(**limits)
    sites = cache["sites"]
    for _ in range(3):
        assert sites["key 5"]["n"] == 5
        assert sites.get("nothing") is None
    assert sites["key 5"] is not sites["key 5"]
    assert set(front(cache).values()) == {0}


def test_entries_are_bounded(writer: mmapcache.Writer) -> None:
    cache = writer.reader(front_entries=50)
    sites = cache["sites"]
    for _ in range(4):
        for n in range(2000):
            assert sites[f"key {n}"]["n"] == n
        assert front(cache)["entries"] <= 50
    rng = random.Random(1)
    for _ in range(5000):
        n = rng.randrange(70)
        assert sites[f"key {n}"]["n"] == n
    counts = front(cache)
    assert counts["entries"] == 50
    assert counts["evictions"] > 0
    assert counts["hits"] > 2000


def test_bytes_are_bounded(writer: mmapcache.Writer) -> None:
    with writer.batch() as batch:
        for n in range(100):
            batch.put("big", n, {"_id": n, "v": b"v" * 1000 * (n % 10)})
        batch.put("big", "huge", {"_id": "huge", "v": b"v" * 60_000})
    cache = writer.reader(front_bytes=100_000)
    big = cache["big"]
    rng = random.Random(2)
    for _ in range(2000):
        n = rng.randrange(100)
        assert big[n]["_id"] == n
        assert big["huge"] is not None
        assert front(cache)["bytes"] <= 100_000
    assert front(cache)["entries"] > 10
    assert big["huge"] is not big["huge"]
    with writer.batch() as batch:
        for n in range(100):
            batch.put("big", n, {"_id": n, "v": b"w" * 12_000})
    for n in range(100):
        assert len(big[n]["v"]) == 12_000
        assert front(cache)["bytes"] <= 100_000


def test_what_is_read_once_costs_no_memory(writer: mmapcache.Writer) -> None:
    """A walk over everything leaves a mebibyte; keys that come again are kept."""
    count = 4000
    with writer.batch() as batch:
        for n in range(count):
            batch.put("wide", n, {"_id": n, "v": b"v" * 400})
    cache = writer.reader()
    wide = cache["wide"]
    for n in range(count):
        assert wide[n]["_id"] == n
    once = front(cache)
    assert 1000 < once["entries"] < count / 2
    # a key whose tag is like one that was turned away, one of 32,768, is taken in: two at most
    assert once["bytes"] <= (1 << 20) + 2 * (once["bytes"] // once["entries"])
    for _ in range(20):
        documents = [wide[n] for n in range(count)]
    kept = [wide[n] is document for n, document in enumerate(documents)]
    assert front(cache)["entries"] == count
    assert all(kept)


def test_hot_keys_survive_a_scan(writer: mmapcache.Writer) -> None:
    cache = writer.reader(front_entries=200)
    sites = cache["sites"]
    hot = [f"key {n}" for n in range(100)]
    for _ in range(3):
        documents = [sites[key] for key in hot]
    for n in range(2000):
        assert sites[fresh(f"key {n}")] is not None
    kept = [sites[key] is document for key, document in zip(hot, documents, strict=True)]
    assert all(kept)


def test_close_gives_the_documents_back(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache["sites"]
    key = fresh("key 5")
    document = sites[key]
    assert sites[key] is document
    held = sys.getrefcount(document)
    cache.close()
    assert sys.getrefcount(document) == held - 1


def test_key_objects_are_not_confused(writer: mmapcache.Writer) -> None:
    """Objects that die may leave their address to another key: it must not get their answer."""
    cache = writer.reader(front_entries=64)
    sites = cache["sites"]
    rng = random.Random(3)
    for _ in range(30_000):
        n = rng.randrange(200)
        key = f"key {n}"
        if n % 2:
            hash(key)
        assert sites[key]["n"] == n
        del key


def test_a_forked_child_goes_on_alone(writer: mmapcache.Writer) -> None:
    cache = writer.reader()
    sites = cache["sites"]
    documents = {key: sites[key] for key in ("key 1", "key 2")}
    change(writer, key_2=20)

    def child() -> None:
        assert sites["key 1"] is documents["key 1"]
        assert sites["key 2"]["n"] == 20
        cache.close()

    in_child(child)
    assert sites["key 1"] is documents["key 1"]
    assert sites["key 2"]["n"] == 20
    assert os.getpid() > 0


@pytest.mark.parametrize("seed", range(4))
def test_against_an_oracle(cache_path: Path, seed: int) -> None:
    """Random commits to one of two collections, reads and snapshots; every answer is compared with
    a plain dict's."""
    rng = random.Random(seed)
    keys: list[Any] = [n if n % 3 else f"k{n}" for n in range(60)]
    names = ["sites", "flags"]
    history: dict[int, dict[str, dict[Any, int]]] = {0: {name: {} for name in names}}
    with mmapcache.Writer(cache_path, max_size="4MiB", retention=0) as writer:
        cache = writer.reader(front_entries=rng.choice([5, 30, 1000]), front_bytes="40K")
        live = {name: cache.collection(name) for name in names}
        built = {name: live[name].map(lambda document: document["turn"]) for name in names}
        snapshots: list[mmapcache.Snapshot] = []
        for turn in range(4000):
            action = rng.random()
            name = rng.choice(names)
            if action < 0.05:
                now = {each: dict(kept) for each, kept in history[writer.generation].items()}
                with writer.batch() as batch:
                    for key in rng.sample(keys, rng.choice([1, 1, 2, 3, 4, 40])):
                        if rng.random() < 0.3:
                            batch.delete(name, key)
                            now[name].pop(key, None)
                        else:
                            batch.put(name, key, {"_id": key, "turn": turn, "pad": "x" * turn})
                            now[name][key] = turn
                    if rng.random() < 0.1:
                        batch.drop(name)
                        now[name] = {}
                history[writer.generation] = now
            elif action < 0.06:
                writer.tidy()
            elif action < 0.08:
                snapshots.append(cache.snapshot())
                if len(snapshots) > 4:
                    snapshots.pop(rng.randrange(4)).close()
            elif action < 0.1:
                key = rng.choice(keys)
                assert built[name].get(key) == history[writer.generation][name].get(key)
            elif action < 0.3 and snapshots:
                snap = rng.choice(snapshots)
                expected = history[snap.generation][name]
                check(snap.collection(name), expected, rng.choice(keys), rng)
            else:
                check(live[name], history[writer.generation][name], rng.choice(keys), rng)
        assert front(cache)["bytes"] <= 40 << 10


def check(
    sites: mmapcache.Collection, expected: dict[Any, int], key: Any, rng: random.Random
) -> None:
    """One read in one of several ways, by the same key object or an equal one."""
    if isinstance(key, str) and rng.random() < 0.5:
        key = fresh(key)
    way = rng.randrange(5)
    try:
        if way == 0:
            found = sites.get(key)
        elif way == 1:
            found = sites.get_many([key]).get(key)
        elif way == 2:
            assert (key in sites) == (key in expected)
            return
        elif way == 3:
            raw = sites.get_raw(key)
            found = None if raw is None else bson.decode(raw)
        else:
            assert sites.pluck(key, "turn") == expected.get(key)
            return
    except mmapcache.SnapshotExpired:
        return
    assert (None if found is None else found["turn"]) == expected.get(key)
