"""The loader that follows a real server, in each of the shapes in which it comes."""

from __future__ import annotations

import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.live import Reader, content, following, in_state, loads, log_lines, well
from support.loader import Loader, load_once, wait_for
from support.mongodb_server import Server
from support.tools import tool

import mmapcache

pymongo = pytest.importorskip("pymongo")
bson = pytest.importorskip("bson")
if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo import MongoClient
    from pymongo.database import Database

    Data = Database[dict[str, Any]]

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("warm_loaders")]

INITIAL = {"initial": 1}
STREAM = "--follow=stream"


@pytest.fixture
def data(replica_set: Server) -> Iterator[Data]:
    """A database of one's own on the replica set."""
    with pymongo.MongoClient(replica_set.uri) as client:
        database = client[f"live_{uuid.uuid4().hex[:8]}"]
        yield database
        client.drop_database(database.name)


def of(data: Data, *names: str) -> list[str]:
    return [STREAM, *(f"--collection={data.name}.{name}" for name in names)]


def stored(data: Data, *names: str) -> dict[str, dict[Any, dict[str, Any]]]:
    return {name: {d["_id"]: d for d in data[name].find()} for name in names}


def equal(cache: mmapcache.Cache, wanted: Mapping[str, Mapping[Any, Any]]) -> None:
    wait_for(lambda: content(cache) == wanted)


# --- a replica set --------------------------------------------------------------------------------


def test_what_is_written_arrives(replica_set: Server, data: Data, cache_path: Path) -> None:
    data.a.insert_many([{"_id": i, "v": 0} for i in range(300)])
    data.b.insert_one({"_id": "x"})
    flags = [*of(data, "a", "b"), "--interval=3600"]
    with following(cache_path, replica_set.uri, *flags) as (_, cache):
        assert content(cache) == stored(data, "a", "b")
        data.a.insert_one({"_id": 300})
        data.a.update_one({"_id": 1}, {"$set": {"v": 1}})
        data.a.update_one({"_id": 2}, {"$unset": {"v": 1}})
        data.a.replace_one({"_id": 3}, {"w": [1, {"x": None}]})
        data.a.delete_one({"_id": 4})
        data.b.delete_one({"_id": "x"})
        equal(cache, stored(data, "a", "b"))
        data.a.update_many({}, {"$inc": {"n": 1}})
        equal(cache, stored(data, "a", "b"))
        data.a.delete_many({"_id": {"$gte": 100}})
        equal(cache, stored(data, "a", "b"))
        wait_for(lambda: cache.status()["events"] >= 500)
        assert loads(cache) == INITIAL
        assert cache.status()["lag"] is not None


def test_ids_of_every_type(replica_set: Server, data: Data, cache_path: Path) -> None:
    """Among them null, of which a lookup of the server's own says that it does not exist."""
    keys: list[Any] = [
        *(None, 0, 1.5, True, "s", b"b", bson.ObjectId(), bson.Int64(1 << 40)),
        *(bson.Decimal128("1.5e3"), bson.Timestamp(1, 2), {"a": 1, "b": "x"}),
        bson.Binary(b"0123456789abcdef", 4),
    ]
    data.a.insert_many([{"_id": key, "v": 0} for key in keys])
    with following(cache_path, replica_set.uri, *of(data, "a")) as (_, cache):
        raw = data.get_collection(
            "a", bson.CodecOptions(document_class=bson.raw_bson.RawBSONDocument)
        )

        def same() -> bool:
            wanted = sorted(bytes(cast("RawBSONDocument", d).raw) for d in raw.find())
            return sorted(d.raw for d in cache["a"].values()) == wanted

        assert same()
        for v, key in enumerate(keys):
            data.a.update_one({"_id": key}, {"$set": {"v": v}})
        wait_for(same)
        for key in keys[::2]:
            data.a.delete_one({"_id": key})
        wait_for(same)
        assert len(cache["a"]) == len(keys) // 2
        assert loads(cache) == INITIAL


def test_a_transaction_is_one_commit(replica_set: Server, data: Data, cache_path: Path) -> None:
    data.a.insert_many([{"_id": i, "v": 0} for i in range(20)])
    with (
        following(cache_path, replica_set.uri, *of(data, "a")) as (_, cache),
        Reader(cache_path) as reader,
    ):
        for v in range(1, 6):
            with data.client.start_session() as session, session.start_transaction():
                for i in range(20):
                    data.a.update_one({"_id": i}, {"$set": {"v": v}}, session=session)
            equal(cache, stored(data, "a"))
    for state in reader.states():
        assert len({document["v"] for document in state["a"].values()}) == 1


def test_filter_and_projection_hold(replica_set: Server, data: Data, cache_path: Path) -> None:
    data.a.insert_many([{"_id": i, "live": i % 2 == 0, "v": i, "w": "x"} for i in range(20)])
    flags = [*of(data, "a"), '--filter=a={"live": true}', '--projection=a={"v": 1}']
    with following(cache_path, replica_set.uri, *flags, "--interval=3600") as (_, cache):

        def wanted() -> dict[str, Any]:
            found = data.a.find({"live": True}, {"v": 1})
            return {"a": {document["_id"]: document for document in found}}

        assert content(cache) == wanted()
        data.a.update_one({"_id": 2}, {"$set": {"live": False}})  # leaves
        data.a.update_one({"_id": 3}, {"$set": {"live": True}})  # enters
        data.a.update_one({"_id": 4}, {"$set": {"v": -4, "w": "y"}})
        data.a.insert_one({"_id": 20, "live": True, "v": 20, "w": "y"})
        data.a.insert_one({"_id": 21, "live": False})
        data.a.delete_one({"_id": 6})
        equal(cache, wanted())
        assert 3 in cache["a"]
        assert cache["a"][4].to_dict() == {"_id": 4, "v": -4}
        assert loads(cache) == INITIAL


def test_many_collections_in_one_stream(replica_set: Server, data: Data, cache_path: Path) -> None:
    names = [f"c{i:02}" for i in range(30)]
    for name in names:
        data[name].insert_one({"_id": name})
    flags = [f"--database={data.name}", STREAM]
    with following(cache_path, replica_set.uri, *flags) as (_, cache):
        for i, name in enumerate(names):
            data[name].insert_one({"_id": i})
        data.fresh.insert_one({"_id": 1})  # appears by itself
        equal(cache, stored(data, *names, "fresh"))
        assert loads(cache) == INITIAL


def test_drop_and_rename(replica_set: Server, data: Data, cache_path: Path) -> None:
    data.a.insert_many([{"_id": i} for i in range(20)])
    data.b.insert_one({"_id": 1})
    flags = of(data, "a", "b")
    with following(cache_path, replica_set.uri, *flags) as (_, cache):
        before = content(cache)
        data.a.drop()
        in_state(cache, "degraded")
        wait_for(lambda: "a" in (cache.status()["error"] or ""))  # not while it is loaded again
        assert content(cache) == before
        data.a.insert_one({"_id": 99})
        equal(cache, stored(data, "a", "b"))
        in_state(cache, "streaming")
        data.made.insert_many([{"_id": i, "v": 1} for i in range(20)])
        data.made.rename("a", dropTarget=True)
        equal(cache, stored(data, "a", "b"))
        well(cache)
        assert loads(cache)["dropped"] >= 1


def test_a_database_that_is_dropped_and_filled(
    replica_set: Server, data: Data, cache_path: Path
) -> None:
    data.a.insert_many([{"_id": i} for i in range(20)])
    flags = [f"--database={data.name}", STREAM]
    with following(cache_path, replica_set.uri, *flags) as (_, cache):
        data.client.drop_database(data.name)
        in_state(cache, "degraded")
        assert len(content(cache)["a"]) == 20
        data.a.insert_one({"_id": 7})
        equal(cache, stored(data, "a"))
        in_state(cache, "streaming")
        data.a.insert_one({"_id": 8})
        equal(cache, stored(data, "a"))


# --- what is written while nobody listens ---------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_goes_on_from_the_stored_position(
    replica_set: Server, data: Data, cache_path: Path, number: signal.Signals
) -> None:
    data.a.insert_many([{"_id": i, "v": 0} for i in range(50)])
    data.b.insert_many([{"_id": i, "v": 0} for i in range(50)])
    flags = of(data, "a", "b")
    with following(cache_path, replica_set.uri, *flags) as (loader, cache):
        data.a.update_one({"_id": 1}, {"$set": {"v": 1}})
        equal(cache, stored(data, "a", "b"))
        loader.signal(number)
        loader.wait()
    data.a.delete_many({"_id": {"$lt": 10}})
    data.b.update_one({"_id": 3}, {"$set": {"v": 3}})
    with following(cache_path, replica_set.uri, *flags) as (loader, cache):
        equal(cache, stored(data, "a", "b"))
        assert loads(cache) == INITIAL
        loader.expect("going on from the position")
    data.b.drop()
    with following(cache_path, replica_set.uri, *flags, state="degraded") as (_, cache):
        wait_for(lambda: loads(cache) == {"initial": 1, "dropped": 1})
        assert "b" in str(cache.status()["error"])


def test_an_idle_position_moves_without_a_generation(
    replica_set: Server, data: Data, cache_path: Path
) -> None:
    data.a.insert_one({"_id": 1})
    other = data.client[data.name + "_other"]
    with following(cache_path, replica_set.uri, *of(data, "a")) as (_, cache):
        generation, began = cache.generation, cache.status()["position_at"]
        assert began

        def moved() -> bool:
            other.x.insert_one({})  # this server's clock moves with writes alone
            time.sleep(0.1)
            return (cache.status()["position_at"] or 0) > began + 1

        wait_for(moved)
        assert cache.generation == generation
        assert cache.status()["events"] == 0
    data.client.drop_database(other.name)


def test_a_server_that_is_killed_and_comes_back(tmp_path: Path, cache_path: Path) -> None:
    with Server(tmp_path / "data", replica_set=True, sync=True) as server:
        with pymongo.MongoClient(server.uri) as client:
            client.shop.a.insert_many([{"_id": i} for i in range(20)])
        flags = [STREAM, "--collection=shop.a"]
        uri = server.uri + "?serverSelectionTimeoutMS=500"
        with following(cache_path, uri, *flags) as (_, cache):
            with pymongo.MongoClient(server.uri) as client:
                client.shop.a.update_one({"_id": 19}, {"$set": {"v": 1}})
                equal(cache, stored(client.shop, "a"))  # so the stream is open
            for number in range(3):
                server.kill()
                in_state(cache, "degraded")
                assert len(content(cache)["a"]) == 20 - number
                server.start()
                with pymongo.MongoClient(server.uri) as client:
                    client.shop.a.delete_one({"_id": number})
                    equal(cache, stored(client.shop, "a"))
                in_state(cache, "streaming")
            assert loads(cache) == INITIAL
            assert cache.status()["disconnects"] >= 3


def test_a_server_that_is_stopped(tmp_path: Path, cache_path: Path) -> None:
    """By SIGSTOP: its connections stay open, and nothing answers."""
    with Server(tmp_path / "data", replica_set=True) as server:
        with pymongo.MongoClient(server.uri) as client:
            client.shop.a.insert_one({"_id": 1})
        flags = [STREAM, "--collection=shop.a"]
        with following(cache_path, server.uri, *flags) as (_, cache):
            server.pause()
            in_state(cache, "degraded")
            lag = cache.status()["age"] or 0
            wait_for(lambda: (cache.status()["age"] or 0) > lag + 0.5)
            server.resume()
            in_state(cache, "streaming")
            with pymongo.MongoClient(server.uri) as client:
                client.shop.a.insert_one({"_id": 2})
                equal(cache, stored(client.shop, "a"))
            assert loads(cache) == INITIAL


def test_an_oplog_that_rolled_over_while_the_loader_was_down(
    tmp_path: Path, cache_path: Path
) -> None:
    settings = {"oplog_max_entries": 20}
    with (
        Server(tmp_path / "data", replica_set=True, settings=settings) as server,
        pymongo.MongoClient(server.uri) as client,
    ):
        client.shop.a.insert_many([{"_id": i, "v": 0} for i in range(30)])
        flags = [STREAM, "--collection=shop.a"]
        with following(cache_path, server.uri, *flags) as (loader, cache):
            loader.signal(signal.SIGKILL)
            loader.wait()
        client.shop.a.delete_one({"_id": 3})
        for i in range(60):
            client.shop.a.update_one({"_id": 4}, {"$set": {"v": i}})
        assert client.admin.command("secantusAdmin.pruneOplog")["pruned"] > 0
        with following(cache_path, server.uri, *flags, state="streaming") as (loader, cache):
            equal(cache, stored(client.shop, "a"))
            wait_for(lambda: loads(cache) == {"initial": 1, "history_lost": 1})
            assert cache.generation == 2
            assert cache.status()["errors"] == {"286": 1}
            loader.expect("warning")
            assert len(log_lines(loader, "warning")) == 1


# --- a standalone server --------------------------------------------------------------------------


def test_a_standalone_server_is_polled(mongodb_uri: str, database: Data, cache_path: Path) -> None:
    database.a.insert_many([{"_id": i} for i in range(20)])
    hello = database.client.admin.command("hello")
    if "setName" in hello:
        pytest.skip("the given server is a replica set")
    flag = f"--collection={database.name}.a"
    with following(cache_path, mongodb_uri, flag, state="polling") as (loader, cache):
        database.a.delete_one({"_id": 3})
        equal(cache, stored(database, "a"))
        status = cache.status()
        assert (status["lag"], status["position_at"], status["error"]) == (None, None, None)
        wait_for(lambda: set(loads(cache)) == {"initial", "poll"})
        assert len(log_lines(loader, "change stream")) <= 1
    with Loader(cache_path, ["--uri", mongodb_uri, flag, STREAM]) as loader:
        assert loader.wait() == 1
        assert "change stream" in loader.output


# --- users and TLS --------------------------------------------------------------------------------


def everything(client: MongoClient[dict[str, Any]]) -> dict[str, list[Any]]:
    """All documents of all collections, but for what the server notes of its own writes."""
    found = {}
    for name in client.list_database_names():
        for collection in client[name].list_collection_names():
            documents = list(client[name][collection].find())
            found[f"{name}.{collection}"] = documents
    return found


def openssl(directory: Path, *arguments: str) -> bool:
    done = subprocess.run(
        ["openssl", *arguments], cwd=directory, capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


def make_certificates(directory: Path) -> None:
    """ca.pem and other-ca.pem; right.pem and expired.pem, of the first, for 127.0.0.1."""
    tool("openssl", "apt-get install openssl; it makes the certificates")
    key = ["-newkey", "rsa:2048", "-nodes"]
    for name in ("ca", "other-ca"):
        subject = ["-subj", f"/CN=Tests {name}", "-days", "2"]
        out = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        assert openssl(directory, "req", "-x509", *key, *out, *subject)
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    request = ["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"]
    assert openssl(directory, "req", *key, *request)
    signing = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"]
    signing += ["-CAcreateserial", "-extfile", "names"]
    assert openssl(directory, *signing, "-days", "2", "-out", "right.pem")
    past = ["-not_before", "20200101000000Z", "-not_after", "20200102000000Z"]
    expired = [*signing, "-out", "expired.pem"]
    # OpenSSL before 3.4 does not know these, but takes a number of days that is negative.
    assert openssl(directory, *expired, *past) or openssl(directory, *expired, "-days", "-1")


def with_certificate(directory: Path, name: str) -> dict[str, str]:
    return {
        "tls_cert_file": str(directory / f"{name}.pem"),
        "tls_key_file": str(directory / "server.key"),
    }


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    return directory


@pytest.fixture(scope="module")
def secure(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A replica set with users and TLS."""
    with Server(tmp_path_factory.mktemp("secure"), replica_set=True) as server:
        with pymongo.MongoClient(server.uri) as client:
            client.shop.a.insert_many([{"_id": i} for i in range(20)])
            client.shop.command(
                "createUser", "app", pwd="s3cr3t", roles=[{"role": "read", "db": "shop"}]
            )
            client.admin.command(
                "createUser", "root", pwd="r00t", roles=[{"role": "root", "db": "admin"}]
            )
        server.stop()
        server.settings = with_certificate(certificates, "right")
        server.start(auth=True)
        yield server


def secured(
    server: Server, authority: Path, user: str = "app:s3cr3t", database: str = "shop"
) -> str:
    host = f"127.0.0.1:{server.port}"
    return f"mongodb://{user}@{host}/?authSource={database}&tls=true&tlsCAFile={authority}"


def test_role_read_suffices_and_nothing_is_written(
    secure: Server, certificates: Path, cache_path: Path
) -> None:
    uri = secured(secure, certificates / "ca.pem")
    root = secured(secure, certificates / "ca.pem", "root:r00t", "admin")
    with pymongo.MongoClient(root) as client:
        before = everything(client)
        assert "shop.a" in before
        for flags in (["--collection=shop.a"], ["--database=shop"]):
            with following(cache_path, uri, *flags, STREAM) as (loader, cache):
                assert len(content(cache)["a"]) == 20
                time.sleep(2)  # time for what is done when there is nothing to do
                loader.signal(signal.SIGTERM)
                assert loader.wait() == 0
        assert load_once(cache_path, ["--uri", uri, "--database=shop"])[0] == 0
        assert everything(client) == before
        with following(cache_path, uri, "--database=shop", STREAM) as (_, cache):
            client.shop.a.insert_one({"_id": "live"})
            equal(cache, stored(client.shop, "a"))
            client.shop.a.delete_one({"_id": "live"})
            equal(cache, stored(client.shop, "a"))


def refused(path: Path, uri: str) -> str:
    """The last line of a loader that gives up at once: a sentence, and no secret in it."""
    began = time.monotonic()
    with Loader(path, ["--uri", uri, "--collection=shop.a", STREAM]) as loader:
        assert loader.wait() == 1
        assert time.monotonic() - began < 20
        assert "Traceback" not in loader.output
        assert "s3cr3t" not in loader.output
        line = loader.output.strip().splitlines()[-1]
    assert "error  " in line
    return line


def test_a_wrong_password(secure: Server, certificates: Path, cache_path: Path) -> None:
    uri = secured(secure, certificates / "ca.pem", "app:s3cr3tt")
    assert "wrong credentials" in refused(cache_path, uri)


def test_another_certificate_authority(
    secure: Server, certificates: Path, cache_path: Path
) -> None:
    line = refused(cache_path, secured(secure, certificates / "other-ca.pem"))
    assert "the server's certificate is refused" in line


def test_an_expired_certificate(certificates: Path, tmp_path: Path, cache_path: Path) -> None:
    settings = with_certificate(certificates, "expired")
    with Server(tmp_path / "data", replica_set=True, settings=settings) as server:
        line = refused(cache_path, secured(server, certificates / "ca.pem"))
        assert "the server's certificate is refused" in line
        assert "expired" in line


def test_a_certificate_that_expires_while_it_is_followed(
    certificates: Path, tmp_path: Path, cache_path: Path
) -> None:
    """What was published stays, the state says why, and the position is kept for later."""
    with Server(tmp_path / "data", replica_set=True, sync=True) as server:
        with pymongo.MongoClient(server.uri) as client:
            client.shop.a.insert_one({"_id": 1})
        server.stop()
        server.settings = with_certificate(certificates, "right")
        server.start()
        host = f"127.0.0.1:{server.port}"
        uri = f"mongodb://{host}/?tls=true&tlsCAFile={certificates / 'ca.pem'}"
        uri += "&serverSelectionTimeoutMS=500"
        flags = [STREAM, "--collection=shop.a"]
        with following(cache_path, uri, *flags) as (loader, cache):
            server.stop()
            server.settings = with_certificate(certificates, "expired")
            server.start()
            in_state(cache, "degraded")
            wait_for(lambda: "certificate" in str(cache.status()["error"]))
            assert loader.process.poll() is None
            assert content(cache) == {"a": {1: {"_id": 1}}}
            server.stop()
            server.settings = with_certificate(certificates, "right")
            server.start()
            in_state(cache, "streaming")
            assert loads(cache) == INITIAL
