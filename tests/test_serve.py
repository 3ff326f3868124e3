"""mmapcache serve, and sync --http: probes, metrics, status and events of a file, over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loader import Loader, wait_for

import mmapcache

prometheus_parser = pytest.importorskip("prometheus_client.parser")

from mmapcache.serve import server as limits  # noqa: E402
from mmapcache.serve.address import (  # noqa: E402
    AddressError,
    is_own_host,
    parse,
    read_token,
)
from mmapcache.serve.running import Pages  # noqa: E402

PATIENCE = 60.0
SECRET = "in-a-document-only"
TOKEN = "0123456789abcdef-token"

# A loader that can be killed: it publishes a document a line, and says so.
LOADER = f"""
import sys, mmapcache
with mmapcache.Writer(sys.argv[1], max_size="2MiB") as writer:
    for number, _ in enumerate(sys.stdin):
        with writer.batch() as batch:
            batch.put("sites", number, {{"_id": number, "text": {SECRET!r}}})
        writer.report(state="streaming", confirmed=True, following=True)
        print(number, flush=True)
"""


def ask(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers with small letters, and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=named)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, body


class Served:
    """Pages at an address; `say` collects what they complain of."""

    def __init__(self, path: Path, http: str, **options: Any) -> None:
        self.said: list[str] = []
        self.address = parse(http)
        options = {"token": None, "max_age": None, **options}
        self.pages = Pages(
            str(path), self.address, say=self.said.append, tell=self.said.append, **options
        )
        self.url = self.pages.open()
        self.port = 0 if self.address.path else int(self.url.rstrip("/").rpartition(":")[2])

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        made.settimeout(PATIENCE)
        return made

    def get(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers with small letters, and body."""
        return ask(self.port, path, method, **headers)

    def status(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.get("/status.json")[2])
        return facts


@contextlib.contextmanager
def served(path: Path, http: str = "127.0.0.1:0", **options: Any) -> Iterator[Served]:
    made = Served(path, http, **options)
    made.pages.start()
    try:
        yield made
    finally:
        made.pages.stop()


def publish(writer: mmapcache.Writer, number: int = 1, name: str = "sites") -> None:
    with writer.batch() as batch:
        batch.put(name, f"key-{SECRET}-{number}", {"_id": number, "text": SECRET})


def values(pages: Served) -> list[str]:
    """The lines of /metrics that give a value."""
    status, _, text = pages.get("/metrics")
    assert status == 200
    return [line for line in text.splitlines() if not line.startswith("#")]


def events(answer: socket.socket) -> Iterator[dict[str, Any]]:
    """The data of the events of an answer."""
    with answer.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("data: "):
                facts: dict[str, Any] = json.loads(line.removeprefix("data: "))
                yield facts


# ---- what is answered ----


def test_every_page_of_a_live_file(writer: mmapcache.Writer) -> None:
    publish(writer)
    publish(writer, 2, "<script>")
    uri = "mongodb://user:hunter2@db1/x"
    writer.report(state="streaming", source=uri, error=f"{uri} is away", confirmed=True)
    writer.record("initial", put=2, error=f"{uri} was away")
    with served(Path(writer.path), max_age=1e6) as pages:
        answers = {
            path: pages.get(path)
            for path in ("/", "/healthz", "/readyz", "/metrics", "/status.json")
        }
        assert {status for status, _, _ in answers.values()} == {200}
        for path, (_, headers, body) in answers.items():
            assert SECRET not in body and "hunter2" not in body, path
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["connection"] == "close"
            assert "default-src 'none'" in headers["content-security-policy"]
            status, head, nothing = pages.get(path, "HEAD")
            assert (status, nothing) == (200, "") and head["content-type"] == headers[
                "content-type"
            ]
        assert "unsafe" not in answers["/"][1]["content-security-policy"]
        assert answers["/healthz"][2].startswith("generation 2, ")
        assert pages.get("/nowhere?token=x")[0] == 404
        assert pages.get("/", "POST")[:1] == (405,) and pages.get("/", "POST")[1]["allow"]
        assert pages.get("/healthz?max_age=soon")[0] == 400
        facts = json.loads(answers["/status.json"][2])
        assert facts["ready"] and facts["status"]["source"] == "mongodb://db1"
        assert facts["collections"]["<script>"]["documents"] == 1
        assert facts["history"][0]["error"] == "mongodb://db1 was away"
        wait_for(lambda: pages.status()["map"])
        assert set(pages.status()["map"]["occupied"]) == {"sites", "<script>"}
        assert pages.said == []


def test_metrics_follow_the_rules(writer: mmapcache.Writer) -> None:
    publish(writer)
    writer.report(confirmed=True, following=True, loads={"initial": 3}, events=7)
    with served(Path(writer.path)) as pages:
        _, headers, text = pages.get("/metrics")
        opened = pages.get(
            "/metrics", Accept="application/openmetrics-text;version=1;escaping=\x22"
        )
    families = list(prometheus_parser.text_string_to_metric_families(text))
    found = {s.name: s.value for family in families for s in family.samples if not s.labels}
    for family in families:
        assert family.name.startswith("mmapcache_") and family.documentation
        assert not family.name.endswith(("_ms", "_count", "_sum", "_kb"))
        totals = {sample.name.endswith("_total") for sample in family.samples}
        assert totals <= {family.type == "counter"}, family
    assert found["mmapcache_up"] == found["mmapcache_loader_alive"] == 1
    assert found["mmapcache_generation"] == 1 and found["mmapcache_source_events_total"] == 7
    assert found["mmapcache_max_bytes"] == 32 << 20 and "front" not in text
    assert 0 <= found["mmapcache_lag_seconds"] <= found["mmapcache_age_seconds"] + PATIENCE
    assert 'mmapcache_documents{collection="sites"} 1' in text
    assert headers["content-type"].startswith("text/plain")
    assert opened[1]["content-type"].startswith("application/openmetrics-text")
    assert "# UNIT mmapcache_age_seconds seconds" in opened[2] and "# EOF" in opened[2]


def test_a_file_that_comes_ages_loses_its_loader_and_is_replaced(cache_path: Path) -> None:
    with served(cache_path, max_age=1e6) as pages:
        assert pages.get("/healthz")[0] == 200
        status, _, sentence = pages.get("/readyz")
        assert status == 503 and str(cache_path) in sentence
        assert pages.get("/healthz?max_age=60")[0] == 503
        assert values(pages) == ["mmapcache_up 0.0"]
        cache_path.write_bytes(b"no cache at all" * 1000)
        assert "not a cache file" in pages.status()["problem"]
        assert values(pages) == ["mmapcache_up 0.0"]
        cache_path.unlink()
        loader = subprocess.Popen(
            [sys.executable, "-c", LOADER, str(cache_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert loader.stdin is not None and loader.stdout is not None
        loader.stdin.write(b"\n")
        loader.stdin.flush()
        assert loader.stdout.readline() == b"0\n"
        assert pages.get("/readyz")[0] == pages.get("/healthz?max_age=1e6")[0] == 200
        assert pages.status()["status"]["loader"] == "alive"
        loader.kill()
        loader.communicate()
        assert pages.get("/healthz")[0] == 200
        assert pages.status()["status"]["loader"] == "dead"
        assert {"mmapcache_up 1.0", "mmapcache_loader_alive 0.0"} <= set(values(pages))
        time.sleep(0.01)
        status, _, sentence = pages.get("/healthz?max_age=0.001")
        assert status == 503 and "more than 0.001 s" in sentence
        before = pages.status()["status"]["file_id"]
        other = cache_path.with_name("other")
        other.write_bytes(b"no cache at all" * 1000)
        other.rename(cache_path)
        facts = pages.status()
        assert facts["ready"] and "the last content of the file before" in facts["problem"]
        with mmapcache.Writer(cache_path, recreate=True) as writer:
            publish(writer)
            facts = pages.status()
            assert facts["status"]["file_id"] != before and facts["replaced_at"]
            assert facts["problem"] is None
        assert pages.said == []


def test_a_loader_that_could_not_load_yet_says_why(cache_path: Path) -> None:
    pytest.importorskip("pymongo")
    uri = "mongodb://ann:hunter2secret@127.0.0.1:1/?serverSelectionTimeoutMS=100"
    with served(cache_path, max_age=1e6) as pages:

        def told(how: str) -> None:
            """Each page comes to have the loader's own words, and never its password."""
            why = f"published anything yet ({how}). It says why: no MongoDB server answers at "
            wait_for(lambda: why in pages.get("/readyz")[2])
            facts = pages.status()
            with pages.connect() as stream:
                stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                event = next(events(stream))
            status, _, body = pages.get("/readyz")
            assert status == pages.get("/healthz?max_age=1e6")[0] == 503
            for shown in (body, facts["problem"], event["problem"]):
                assert why in shown
            assert "hunter2secret" not in f"{body}{facts}{event}"
            assert not facts["ready"] and not event["ready"]

        with Loader(cache_path, ["--uri", uri, "--collection", "shop.sites"]) as loader:
            told("it is running")
            loader.signal(signal.SIGKILL)
            loader.wait()
            told("it was killed")
        with mmapcache.Writer(cache_path) as writer:
            publish(writer)
            assert pages.get("/readyz")[0] == 200 and pages.status()["problem"] is None
        assert pages.said == []


def test_data_that_is_too_old_is_not_ready(writer: mmapcache.Writer) -> None:
    publish(writer)
    writer.report(confirmed=time.time() - 2000)
    with served(Path(writer.path), max_age=1000) as pages:
        status, _, sentence = pages.get("/readyz")
        assert status == 503 and sentence.endswith(" s old, more than 1000 s\n")
        assert pages.get("/healthz")[0] == 200
        writer.report(confirmed=True)
        assert pages.get("/readyz")[0] == 200
    writer.report(confirmed=time.time() - 2000)
    with served(Path(writer.path)) as pages:  # as old as it likes
        assert pages.get("/readyz")[0] == 200


def test_events_come_with_each_generation(writer: mmapcache.Writer) -> None:
    publish(writer)
    with served(Path(writer.path)) as pages, pages.connect() as stream:
        stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heard = events(stream)
        assert next(heard)["status"]["generation"] == 1
        publish(writer, 2)
        assert any(facts["status"]["generation"] == 2 for facts in heard)
        assert SECRET not in json.dumps(next(heard))


# ---- who may ask ----


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        *[
            (text, True)
            for text in ("127.0.0.1:80", "localhost:1", "[::1]:9", "127.9.9.9:0", "unix:/x")
        ],
        *[(text, False) for text in ("0.0.0.0:80", "[::]:80", "example.org:80")],
    ],
)
def test_addresses(text: str, loopback: bool) -> None:
    address = parse(text)
    assert address.loopback == loopback
    if not loopback:
        with pytest.raises(AddressError, match="give --token-file"):
            read_token(None, address)


@pytest.mark.parametrize("text", ["80", ":80", "localhost", "::1:80", "a:b", "a:70000", "unix:"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError, match="ADDR:PORT"):
        parse(text)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *[(host, True) for host in ("127.0.0.1:9099", "localhost", "LOCALHOST:1", "[::1]:1")],
        *[(host, False) for host in ("evil.example", "localhost.evil.example", "", None)],
    ],
)
def test_another_name_for_this_host_is_refused(host: str | None, own: bool) -> None:
    assert is_own_host(host, parse("127.0.0.1:9099")) == own
    assert is_own_host(host, parse("0.0.0.0:9099"))  # there, a token is needed


def test_hosts_and_tokens(writer: mmapcache.Writer, tmp_path: Path) -> None:
    publish(writer)
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    token = read_token(str(path), parse("0.0.0.0:0"))
    with served(Path(writer.path)) as pages:
        assert pages.get("/status.json", Host="evil.example")[0] == 421
    with served(Path(writer.path), "0.0.0.0:0", token=token) as pages:
        for address in ("/", "/healthz", "/status.json?token=", "/nowhere"):
            status, headers, _ = pages.get(address)
            assert status == 401 and headers["www-authenticate"].startswith("Bearer")
        assert pages.get("/healthz", Authorization=f"Bearer {TOKEN[:-1]}")[0] == 401
        assert pages.get("/healthz", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert pages.get(f"/healthz?token={TOKEN}", Host="any.example")[0] == 200
        assert pages.get(f"/healthz?token={TOKEN}", Authorization="Bearer \xe4")[0] == 401
    path.write_text("short\n")
    with pytest.raises(AddressError, match="16 ASCII characters"):
        read_token(str(path), parse("127.0.0.1:0"))


def test_a_socket_in_the_file_system(writer: mmapcache.Writer, tmp_path: Path) -> None:
    publish(writer)
    where = tmp_path / "http.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(where))
    dead.close()  # a process that was killed left it
    with served(Path(writer.path), f"unix:{where}"):
        assert where.stat().st_mode & 0o777 == 0o660
        with pytest.raises(OSError, match="in use"):
            Served(Path(writer.path), f"unix:{where}")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(where))
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert not where.exists()


# ---- limits ----


def test_slow_and_large_requests_get_nothing(
    writer: mmapcache.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(writer)
    with served(Path(writer.path)) as pages:
        # not for being slow: there is time enough for that
        monkeypatch.setattr(limits, "HEAD_SECONDS", 2 * PATIENCE)
        for head in (b"GET /" + b"a" * 9000, b"\r\n\r\n"):
            _gets_nothing(pages, head)
        monkeypatch.setattr(limits, "HEAD_SECONDS", 0.2)
        _gets_nothing(pages, b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        monkeypatch.setattr(limits, "HEAD_SECONDS", 2 * PATIENCE)
        with pages.connect() as client:
            client.sendall(b"<script> / HTTP/9.9\r\n\r\n")
            answer = client.makefile("rb").read()
            assert b" 505 " in answer and b"no request" in answer and b"script" not in answer
        assert pages.get("/healthz")[0] == 200 and pages.said == []


def _gets_nothing(pages: Served, head: bytes) -> None:
    with pages.connect() as client, contextlib.suppress(ConnectionError):
        client.sendall(head)
        assert client.recv(100) == b""


def test_connections_and_streams_are_bounded(
    writer: mmapcache.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(writer)
    monkeypatch.setattr(limits, "CONNECTIONS", 3)
    monkeypatch.setattr(limits, "STREAMS", 1)
    monkeypatch.setattr(limits, "HEAD_SECONDS", 2 * PATIENCE)  # nobody is sent away for being slow
    before = _answering()  # of other tests
    with served(Path(writer.path)) as pages, contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(pages.connect()) for _ in range(2))
        first.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert next(events(first))["ready"]
        second.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert second.makefile().read().endswith("retry: 30000\n\n")  # and it ends
        wait_for(lambda: len(_answering() - before) == 1)  # the one that ended may be counted still
        others = [stack.enter_context(pages.connect()) for _ in range(2)]
        wait_for(lambda: len(_answering() - before) == 3)
        with pages.connect() as client:
            assert client.makefile("rb").read().startswith(b"HTTP/1.1 503 ")
        assert len(_answering() - before) == 3
        for other in others:
            other.close()
        wait_for(lambda: b" 200 " in _answer(pages))


def _answering() -> set[threading.Thread]:
    """The threads that have a connection: each gives its place back before it ends."""
    return {each for each in threading.enumerate() if "process_request_thread" in each.name}


def _answer(pages: Served) -> bytes:
    with pages.connect() as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client.recv(100)
    return b""


# ---- the commands ----


def test_the_command_serves_until_it_is_told_to_end(cache_path: Path) -> None:
    command = [sys.executable, "-m", "mmapcache", "serve", str(cache_path), "--http"]
    process = subprocess.Popen(
        [*command, "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(line.strip().rstrip("/").rpartition(":")[2])
    assert line.startswith(f"serving {cache_path} at http://127.0.0.1:")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    taken = subprocess.run([*command, f"127.0.0.1:{port}"], capture_output=True, text=True)
    assert taken.returncode == 1 and f"127.0.0.1:{port}: " in taken.stderr
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=PATIENCE) == ("", "") and process.returncode == 0
    open_to_all = subprocess.run([*command, "0.0.0.0:0"], capture_output=True, text=True)
    assert open_to_all.returncode == 2 and "--token-file" in open_to_all.stderr


@pytest.mark.parametrize("command", ["serve", "sync"])
def test_a_command_takes_the_token_and_the_age(command: str, cache_path: Path) -> None:
    source, secret = (cache_path.with_name(name) for name in ("sites.json", "token"))
    source.write_text('{"_id": "a", "n": 1}\n')
    secret.write_text(f"{TOKEN}\n")
    with mmapcache.Writer(cache_path, max_size="2MiB") as writer:
        publish(writer)
    flags = ["--http=127.0.0.1:0", f"--token-file={secret}", "--max-age=0.001"]
    if command == "sync":
        flags += [f"--source=file:{source}", "--interval=3600"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmapcache", command, str(cache_path), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while not (where := re.search(r"at http://127\.0\.0\.1:(\d+)/", said)):
        said += process.stdout.readline() or pytest.fail(f"{command} ended: {said}")
    port = int(where[1])
    allowed = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/", "/healthz", "/readyz", "/metrics", "/status.json"):
        assert ask(port, path)[0] == 401
        assert ask(port, path, Authorization=f"Bearer {TOKEN}x")[0] == 401
    for path in ("/", "/healthz", "/metrics", "/status.json"):
        assert ask(port, path, **allowed)[0] == 200
    wait_for(lambda: " s old, more than 0.001 s" in ask(port, "/readyz", **allowed)[2])
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def test_a_loader_serves_and_never_waits_for_it(cache_path: Path) -> None:
    source = cache_path.with_name("sites.json")
    source.write_text('{"_id": "a", "n": 1}\n')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--source", f"file:{source}", "--interval=0.1", "--http"]
        with Loader(cache_path, [*flags, busy]) as loader:
            loader.expect("no status page yet")
            wait_for(lambda: cache_path.exists())
            with mmapcache.open(cache_path, timeout=PATIENCE) as cache:
                assert cache["sites"]["a"]["n"] == 1
            loader.signal(signal.SIGTERM)
            assert loader.wait() == 0
    with Loader(cache_path, [*flags, "127.0.0.1:0"]) as loader:
        loader.expect(r"the status page is at http://127.0.0.1:\d+/")
        port = int(loader.output.partition("http://127.0.0.1:")[2].partition("/")[0])

        def loader_of_the_page() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", "/status.json")
            facts = json.loads(connection.getresponse().read())
            return str(facts["status"]["loader"])

        wait_for(lambda: loader_of_the_page() == "alive")
        loader.signal(signal.SIGTERM)
        assert loader.wait() == 0
    with Loader(cache_path, [*flags, "0.0.0.0:0"]) as loader:
        assert loader.wait() == 2 and "--token-file" in loader.output
