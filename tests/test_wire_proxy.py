"""The proxy of the gap test does what it says; and lets everything pass when it says nothing."""

from __future__ import annotations

import random
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from pymongo import MongoClient
from support.scripted_server import ScriptedServer
from support.wire_proxy import WireProxy

SENT = b"sixteen bytes or more, to be told apart from less"


class Echo(socketserver.BaseRequestHandler):
    """A server that says what it hears."""

    def handle(self) -> None:
        while data := self.request.recv(1 << 16):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[WireProxy]:
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with WireProxy(server.server_address[1], random.Random(1)) as proxy:
            yield proxy
        server.shutdown()


@pytest.fixture
def client(proxy: WireProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), 30) as client:
        client.sendall(SENT)
        assert answer(client) == SENT
        yield client


def answer(client: socket.socket) -> bytes:
    """What comes: all of it, or less when the connection ends."""
    data = b""
    while len(data) < len(SENT):
        try:
            more = client.recv(len(SENT))
        except ConnectionResetError:
            break
        if not more:
            break
        data += more
    return data


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(30)
    return False


@pytest.mark.parametrize("one", [False, True])
def test_cut(proxy: WireProxy, client: socket.socket, one: bool) -> None:
    proxy.cut(one=one)
    assert answer(client) == b""


def test_a_reply_is_cut_in_its_middle(proxy: WireProxy, client: socket.socket) -> None:
    proxy.cut_reply()
    client.sendall(SENT)
    cut = answer(client)
    assert len(cut) < len(SENT)
    assert SENT.startswith(cut)
    with socket.create_connection(("127.0.0.1", proxy.port), 30) as another:
        another.sendall(SENT)
        assert answer(another) == SENT


def test_what_is_stalled_comes_later(proxy: WireProxy, client: socket.socket) -> None:
    proxy.stall(True)
    client.sendall(SENT)
    assert is_silent(client)
    proxy.stall(False)
    assert answer(client) == SENT


def test_a_delay_changes_no_bytes(proxy: WireProxy, client: socket.socket) -> None:
    proxy.delay(0.02)
    for _ in range(5):
        client.sendall(SENT)
        assert answer(client) == SENT


def test_refused_and_welcome_again(proxy: WireProxy, client: socket.socket) -> None:
    proxy.refuse(True)
    with socket.create_connection(("127.0.0.1", proxy.port), 30) as refused:
        assert answer(refused) == b""
    client.sendall(SENT)
    assert answer(client) == SENT
    proxy.heal()
    with socket.create_connection(("127.0.0.1", proxy.port), 30) as welcome:
        welcome.sendall(SENT)
        assert answer(welcome) == SENT


def test_a_dead_connection_stays_dead(proxy: WireProxy, client: socket.socket) -> None:
    assert proxy.hole()
    client.sendall(SENT)
    assert is_silent(client)
    proxy.heal()
    client.sendall(SENT)
    assert is_silent(client)
    assert not proxy.hole()  # there is no other


def test_it_counts_what_is_asked_for() -> None:
    with (
        ScriptedServer({"shop.sites": [{"_id": 1}]}) as server,
        WireProxy(int(server.uri.split(":")[2].split("/")[0]), random.Random(1)) as proxy,
        closing(MongoClient[dict[str, Any]](proxy.uri)) as client,
    ):
        sites = client["shop"]["sites"]
        assert list(sites.find()) == [{"_id": 1}]
        list(sites.find({"_id": 1}))
        assert proxy.commands["find of a collection"] == 1
        assert proxy.commands["find by _id"] == 1
