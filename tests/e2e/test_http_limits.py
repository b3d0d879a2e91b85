# SPDX-License-Identifier: MIT
"""What HTTP clients together may take: answers that wait for them, and input that waits for the server."""
import socket
import struct

import pytest

from conftest import PATIENCE

MIB = 1 << 20
QUEUED, KEPT = "tidewire_send_queue_bytes", "tidewire_reassembly_bytes"
CUT, REFUSED = "tidewire_slow_consumers_closed_total", "tidewire_reassembly_refused_total"
PIECE = 65536
SITE = f"""
local gate = app.promise()
app.get("big", function() return ("x"):rep({8 * MIB}) end)
app.get("small", function() return "small" end)
app.get("flood", function() return 200, function(write)
  for _ = 1, 400 do
    if not write(("x"):rep({PIECE})) then return end
  end
end end)
app.get("wait", function() return gate:await() end)
app.get("open", function() gate:resolve("opened") return "ok" end)
app.post("echo", function(req) return req.body end)
"""


def get(path):
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def slow(server, path):
    """A client that asks, and reads nothing of the answer."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    client = server.wrap(sock)
    client.send(get(path))
    return client


def ask(server, path):
    with server.raw() as client:
        client.send(get(path))
        return client.response()


def test_answers_that_wait_for_slow_clients_stay_within_queue_limit(serve):
    server = serve(SITE, queue_limit=20 * MIB)
    clients = [slow(server, "/big") for _ in range(8)]
    server.wait_metric('tidewire_http_responses_total{class="2xx"}', len(clients))
    server.wait_metric(CUT, lambda cut: 0 < cut < len(clients))
    server.wait_metric(QUEUED, lambda queued: queued <= 20 * MIB)
    assert ask(server, "/small").body == "small"
    for client in clients:
        client.close()
    server.wait_metric("tidewire_connections", 0)
    assert server.metrics()[QUEUED] == 0


def test_streams_wait_for_slow_clients_at_queue_limit_and_are_not_cut(serve):
    server = serve(SITE, queue_limit=MIB, send_limit="64m")
    clients = [slow(server, "/flood") for _ in range(8)]
    server.wait_metric("tidewire_tasks", len(clients))
    assert server.metrics()[QUEUED] <= MIB + len(clients) * (PIECE + 100)
    assert server.metrics()[CUT] == 0
    total = 0
    for client in clients:
        with client:
            head = client.until(b"\r\n\r\n")
            assert b"chunked" in head
            while size := int(client.until(b"\r\n"), 16):
                client.take(size + 2)
                total += size
    assert total == len(clients) * 400 * PIECE
    assert server.metrics()[QUEUED] == 0


def test_what_waits_behind_a_request_counts_as_kept_until_it_is_read(serve):
    server = serve(SITE)
    early = get("/small") * 500
    with server.raw() as client:
        client.send(get("/wait"))
        server.wait_metric("tidewire_tasks", 1)
        client.send(early)
        server.wait_metric(KEPT, lambda kept: kept >= len(early))
        assert ask(server, "/open").body == "ok"
        assert client.response().body == "opened"
        for _ in range(500):
            assert client.response().body == "small"
        assert server.metrics()[KEPT] == 0


def test_a_request_that_has_no_room_among_what_is_kept_is_a_503(serve):
    server = serve(SITE, reassembly_limit=MIB)
    bodies = [server.raw() for _ in range(3)]
    for client in bodies:
        head = f"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {MIB // 2}\r\n\r\n"
        client.send(head.encode() + b"x" * (MIB // 2 - 1))
    assert server.wait_metric(REFUSED, lambda refused: refused > 0) < len(bodies)
    for client in bodies:
        client.close()
    server.wait_metric("tidewire_connections", 0)
    assert server.metrics()[KEPT] == 0


def test_heads_that_are_not_whole_have_their_share_and_give_it_back(serve):
    server = serve(SITE, reassembly_limit=MIB, max_head=65000)
    heads = [server.raw() for _ in range(30)]
    for client in heads:
        client.send(b"GET /small HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 60_000)
    server.wait_metric(REFUSED, lambda refused: refused > 0)
    metrics = server.metrics()
    assert metrics[KEPT] <= 2 * MIB
    for client in heads:
        client.close()
    server.wait_metric("tidewire_connections", 0)
    assert server.metrics()[KEPT] == 0


def reset(client):
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


BIG_PIECE = f"""
app.get("piece", function() return 200, function(write) write(("x"):rep({16 * MIB})) write("more") end end)
app.get("small", function() return "small" end)
app.post("echo", function(req) return req.body end)
"""


@pytest.mark.parametrize("begun", [b"GET /sm", b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"])
def test_a_request_that_breaks_off_while_all_queues_are_full_ends_alone(serve, begun):
    server = serve(BIG_PIECE, queue_limit=MIB, send_limit="64m")
    full = slow(server, "/piece")
    server.wait_metric(QUEUED, lambda queued: queued > MIB)
    client = server.raw()
    server.send_apart(client, begun)
    reset(client)
    server.wait_metric("tidewire_connections", 1)
    assert ask(server, "/small").body == "small"
    full.close()


def test_beyond_queue_limit_a_stream_keeps_no_more_than_send_limit_waiting(serve):
    server = serve(BIG_PIECE, queue_limit=MIB)
    clients = [slow(server, "/piece") for _ in range(4)]
    server.wait_metric(CUT, len(clients))
    server.wait_metric(QUEUED, 0)
    for client in clients:
        client.close()


def test_answers_that_came_after_a_wait_stop_the_reading_too(serve):
    server = serve(f"""app.get("x", function() app.sleep(0) return ("x"):rep({MIB}) end)""")
    client = slow(server, "/x")
    client.send(get("/x") * 99)
    server.wait_metric("tidewire_tasks", 0)
    seen = server.wait_metric('tidewire_http_responses_total{class="2xx"}', lambda n: n > 0)
    assert ask(server, "/none").status == 404
    assert server.metrics()['tidewire_http_responses_total{class="2xx"}'] - seen < 50
    assert server.metrics()[QUEUED] < 4 * MIB
    client.close()


def test_what_comes_behind_waiting_requests_stays_within_reassembly_limit(serve):
    server = serve(SITE, reassembly_limit=MIB)
    clients = []
    for _ in range(40):
        clients.append(server.raw())
        try:
            clients[-1].send(get("/wait") + b"x" * 200_000)
        except OSError:
            pass  # it was closed meanwhile
    server.wait_metric(REFUSED, lambda refused: refused > 0)
    assert server.metrics()[KEPT] < MIB + len(clients) * 40_000
    for client in clients:
        reset(client)
    server.wait_metric("tidewire_connections", 0)
    assert server.metrics()[KEPT] == 0
