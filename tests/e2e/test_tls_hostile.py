# SPDX-License-Identifier: MIT
"""TLS from peers that mean no good, are slow, or come through a proxy; and that nothing of them is left."""
import json
import os
import random
import socket
import ssl
import struct
import time

import pytest

from conftest import CLOSE, PATIENCE, TEXT, close_payload, secured
from test_http_connection import PROXY_LINES

SITE = """
app.get("who", function(req) return json.encode({who = req.remote_address, tls = req.tls and req.tls.version}) end)
app.websocket("echo", function(ws) ws:on_text(function(ws, text) ws:send(text) end) end)
"""
OK, FAILED = 'tidewire_tls_handshakes_total{outcome="ok"}', 'tidewire_tls_handshakes_total{outcome="failed"}'
SHAKING, OPEN = "tidewire_tls_handshaking", "tidewire_tls_connections"


@pytest.fixture
def start(serve, certs):
    return lambda **options: serve(SITE, **{"listen": certs.spec(), **options})


@pytest.fixture
def context(certs):
    return certs.context()


class Slow:
    """A client's handshake by hand: what it has to say, and what it has heard."""

    def __init__(self, context, sock):
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard, self.said = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.heard, self.said, server_hostname="localhost")

    def shake_hands(self, step):
        """`step` bytes at a time."""
        while not self._is_done():
            data = self.said.read()
            for i in range(0, len(data), step):
                self.sock.sendall(data[i:i + step])
            if not data:
                self._hear()
        self.sock.sendall(self.said.read())

    def _is_done(self):
        try:
            self.tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False

    def ask(self, path):
        self.tls.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        for byte in self.said.read():
            self.sock.sendall(bytes([byte]))
        while True:
            try:
                return self.tls.read()
            except ssl.SSLWantReadError:
                self._hear()

    def _hear(self):
        data = self.sock.recv(65536)
        assert data, "the server has ended the connection"
        self.heard.write(data)


def hello_of(context):
    """A ClientHello."""
    said = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return said.read()


def drained(client):
    """Whatever comes until the connection is over."""
    try:
        while client.sock.recv(65536):
            pass
    except ConnectionResetError:
        pass


def fine(server, context):
    with server.secure(context, "/echo") as client:
        client.send_frame(TEXT, "hello")
        assert client.text() == "hello"
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    server.wait_metric(OPEN, 0)
    assert server.metrics()[SHAKING] == 0


# ---- handshakes ----

def test_a_handshake_byte_by_byte(start, context):
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        client = Slow(context, sock)
        client.shake_hands(1)
        assert b"200 OK" in client.ask("/who")
    fine(server, context)


GARBAGE = {
    "text": b"hello\r\n", "zeros": bytes(100), "a record of another type": b"\x17\x03\x03\x00\x05hello",
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28", "a record too long": b"\x16\x03\x01\xff\xff" + bytes(1000),
    "an empty record": b"\x16\x03\x01\x00\x00" * 100, "SSL 2": b"\x80\x2e\x01\x00\x02" + bytes(44),
    "a hello of nonsense": b"\x16\x03\x01\x00\x30\x01\x00\x00\x2c\x03\x03" + bytes(range(42)),
    "a hello without end": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16380),
    "noise": random.Random(1).randbytes(5000), "half a megabyte": random.Random(2).randbytes(500000),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_ends_and_disturbs_nobody(start, context, data):
    server = start(handshake_timeout=1)
    with server.raw() as client:
        try:
            client.send(data)
        except ConnectionError:
            pass
        drained(client)
    server.wait_metric(FAILED, 1)
    fine(server, context)


def test_a_hello_that_is_cut_or_changed_anywhere_ends(start, context):
    server, hello, rng = start(handshake_timeout=0.5), hello_of(context), random.Random(3)
    cut = [hello[:n] for n in range(0, len(hello), 16)]
    changed = []
    for _ in range(60):
        wrong = bytearray(hello)
        wrong[rng.randrange(len(wrong))] ^= 1 << rng.randrange(8)
        changed.append(bytes(wrong))
    clients = []
    for data in cut + changed:
        client = server.raw()
        client.send(data)
        clients.append(client)
    for client in clients:
        drained(client)
        client.close()
    server.wait_metric(OPEN, 0)
    assert server.metrics()[FAILED] == len(clients)
    fine(server, context)


def test_a_handshake_that_stalls_is_closed_by_handshake_timeout(start, context):
    server = start(handshake_timeout=0.3)
    hello = hello_of(context)
    clients = [server.raw() for _ in range(4)]
    for client, data in zip(clients, (b"", hello[:20], hello[:-1], hello)):
        client.send(data)
    for client in clients:
        drained(client)
        client.close()
    server.wait_metric(FAILED, 4)
    server.wait_metric(SHAKING, 0)
    assert server.metrics()["tidewire_http_responses_total{class=\"4xx\"}"] == 0
    fine(server, context)


def test_send_timeout_is_not_for_handshakes(start, context):
    server = start(send_timeout=0.05)
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        client = Slow(context, sock)
        sock.sendall(b"\x16")
        time.sleep(0.5)  # the server has looked several times
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        sock.sendall(client.said.read()[1:])
        client.shake_hands(100000)
        assert b"200 OK" in client.ask("/who")


def test_max_tls_handshakes_closes_what_is_beyond_it(start, context):
    server = start(max_tls_handshakes=3)
    waiting = [server.raw() for _ in range(3)]
    server.wait_metric(SHAKING, 3)
    with server.raw() as client:
        drained(client)
    assert server.metrics()['tidewire_connections_refused_total{reason="tls"}'] == 1
    waiting.pop().close()
    server.wait_metric(SHAKING, 2)
    with server.secure(context, "/echo") as client:
        client.send_frame(TEXT, "there is room again")
        assert client.text() == "there is room again"
        with server.secure(context, "/echo"):  # what is over does not count
            pass
    for client in waiting:
        client.close()
    server.wait_metric(SHAKING, 0)


def test_who_is_refused_is_closed_before_the_handshake(start, context):
    server = start(max_connections_per_address=1)
    with server.secure(context, "/echo") as client:
        with server.raw() as other:
            drained(other)
        client.send_frame(TEXT, "x")
        assert client.text() == "x"
    metrics = server.metrics()
    assert metrics['tidewire_connections_refused_total{reason="address"}'] == 1
    assert metrics[OK] == 1 and metrics[FAILED] == 0


def test_stopping_does_not_wait_for_handshakes(start, context):
    server = start(drain_timeout=60)
    hello = hello_of(context)
    clients = [server.raw() for _ in range(3)]
    for client, data in zip(clients, (b"", hello[:20], hello)):
        client.send(data)
    server.wait_metric(SHAKING, 3)
    assert server.stop() == 0
    for client in clients:
        drained(client)
        client.close()


# ---- afterwards ----

@pytest.mark.parametrize("data", [b"GET /who HTTP/1.1\r\n\r\n", b"\x17\x03\x03\x00\x20" + bytes(32), b"\x17\x03\x03\xff\xff",
                                  b"\x16\x03\x03\x00\x04\x00\x00\x00\x00", bytes(10)])
def test_what_is_not_sealed_ends_a_connection(start, context, data):
    server = start()
    with server.secure(context, "/echo") as client:
        socket.socket.send(client.sock, data)
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            client.take(1)
    server.wait_metric(OPEN, 0)
    assert server.metrics()[FAILED] == 0  # the handshake was fine
    fine(server, context)


def test_empty_records_for_ever_end_a_connection(start, context):
    server = start()
    said = hello_of(context)
    with server.raw() as client:
        client.send(said)
        client.take(5)  # the server has answered
        try:
            for _ in range(1000):
                client.send(b"\x14\x03\x03\x00\x01\x01")  # change_cipher_spec
        except ConnectionError:
            pass
        drained(client)
    server.wait_metric(FAILED, 1)
    fine(server, context)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_connections_that_break_leave_nothing(start, context, how):
    server = start()
    clients = [server.secure(context, "/echo") for _ in range(30)] + [server.raw() for _ in range(30)]
    server.wait_metric(SHAKING, 30)
    descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
    for client in clients:
        if how == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    server.wait_metric("tidewire_connections", 0)
    metrics = server.metrics()
    assert metrics[SHAKING] == metrics[OPEN] == metrics["tidewire_send_queue_bytes"] == 0
    assert len(os.listdir(f"/proc/{server.pid}/fd")) == descriptors - 60


# ---- through a proxy ----

@pytest.fixture
def proxied(serve, certs):
    return lambda **options: serve(SITE, listen=f"proxy:{certs.spec()}", trusted_proxies="127.0.0.1", **options)


def who(client):
    answer = json.loads(client.request("GET /who HTTP/1.1\nHost: a\n\n").body)
    assert answer["tls"] == "TLSv1.3"
    return answer["who"]


@pytest.mark.parametrize("line, address", PROXY_LINES.values(), ids=PROXY_LINES.keys())
def test_the_proxy_protocol_comes_before_tls(proxied, context, line, address):
    server = proxied()
    for pieces in ([line], [line[:1], line[1:]], [line[:-1], line[-1:]], [bytes([byte]) for byte in line]):
        client = server.raw()
        server.send_apart(client, *pieces)
        with secured(client.sock, context) as client:
            assert who(client) == address


def test_the_proxy_protocol_and_the_hello_may_come_together(proxied, context):
    server = proxied()
    line = PROXY_LINES["v1"][0]
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        client = Slow(context, sock)
        client.said.write(line)  # ahead of the hello
        client.shake_hands(100000)
        assert b'"192.0.2.7"' in client.ask("/who")


def test_a_hello_instead_of_the_proxy_protocol_is_closed(proxied, context):
    server = proxied()
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        server.secure(context)
    server.wait_log("should begin with the PROXY protocol does not")
    assert server.metrics()[FAILED] == 0


def test_limits_of_addresses_and_handshakes_hold_behind_a_proxy(proxied, context):
    server = proxied(max_connections_per_address=1, max_tls_handshakes=2)

    def begin(n):
        client = server.raw()
        client.send(f"PROXY TCP4 192.0.2.{n} 127.0.0.1 1 2\r\n")
        return client
    waiting = [server.raw() for _ in range(5)]  # have not begun
    server.wait_metric(OPEN, 5)
    assert server.metrics()[SHAKING] == 0
    first = secured(begin(1).sock, context)
    assert who(first) == "192.0.2.1"
    with begin(1) as same:
        drained(same)
    assert server.metrics()['tidewire_connections_refused_total{reason="address"}'] == 1
    shaking = [begin(2), begin(3)]
    server.wait_metric(SHAKING, 2)
    with begin(4) as beyond:
        drained(beyond)
    assert server.metrics()['tidewire_connections_refused_total{reason="tls"}'] == 1
    for client in [first, *shaking, *waiting]:
        client.close()
    server.wait_metric(OPEN, 0)


def test_a_proxy_that_says_nothing_is_closed_by_proxy_timeout(proxied):
    server = proxied(proxy_timeout=0.2)
    with server.raw() as client:
        client.send("PROXY TCP4 1")
        drained(client)
    server.wait_log("within proxy_timeout")
    server.wait_metric(OPEN, 0)
