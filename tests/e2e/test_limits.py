# SPDX-License-Identifier: MIT
"""What one client, one address or all clients together may take: rates, numbers of connections, queues and memory,
and which of it a route may set for itself."""
import os
import re
import resource
import select
import socket
import struct
import threading
from pathlib import Path

import pytest

from conftest import CLOSE, CONT, PATIENCE, PING, PONG, TEXT, Raw, close_payload, frame, not_under_tsan

ECHO = "function(ws) ws:on_text(function(ws, text) ws:send(text) end) end"
MIB = 1 << 20
HELLO = frame(TEXT, "hello")
CONNECTIONS = int(os.environ.get("TIDEWIRE_TEST_CONNECTIONS", "2000"))
RECEIVED = "tidewire_messages_received_total"
DROPPED = 'tidewire_messages_dropped_total{reason="slow"}'


def numbered(first, last):
    return b"".join(frame(TEXT, f"{i:06}") for i in range(first, last))


def connect(server, source=None, receive=None):
    """A raw client, from another address or with a small buffer in its kernel."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    if source:
        sock.bind((source, 0))
    sock.connect(("127.0.0.1", server.port))
    return server.wrap(sock)


def slow(server, path):
    """A client that takes little and will not read: what it is sent soon waits in the server."""
    return connect(server, receive=4096).upgrade(path)


def hurry(client):
    """From now on it can read fast."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)


def reset(client):
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def silent(client):
    """Nothing has come for it."""
    return not client.buffer and not select.select([client.sock], [], [], 0)[0]


def round_trips(client, n):
    for i in range(n):
        client.send_frame(TEXT, f"turn {i}")
        assert client.text() == f"turn {i}"


def close_all(clients):
    for client in clients:
        client.close()


def resident(server):
    """Bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M).group(1)) * 1024


@pytest.fixture
def measured(monkeypatch):
    """For tests that look at resident memory: what was freed is not to be kept by AddressSanitizer."""
    monkeypatch.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1")


# ---- messages_per_second ----

def test_beyond_messages_per_second_messages_wait(serve):
    server = serve(f"app.websocket('/x', {{messages_per_second = 0.001}}, {ECHO}) app.websocket('/free', {ECHO})")
    with server.raw("/x") as client, server.raw("/free") as other:
        client.send(numbered(0, 5))
        assert client.text() == "000000"
        round_trips(other, 100)
        assert silent(client)
        assert server.metrics()[RECEIVED] == 101


def test_what_waits_is_neither_lost_nor_reordered(serve):
    server = serve(f"app.websocket('/x', {ECHO})", messages_per_second=100)
    with server.raw("/x") as client:
        client.send(numbered(0, 60))
        client.send(numbered(60, 120) + frame(CLOSE, close_payload(1000)))
        assert [client.text() for _ in range(120)] == [f"{i:06}" for i in range(120)]
        client.expect_close(1000)


def test_a_burst_larger_than_one_read_waits_in_order(serve):
    server = serve(f"app.websocket('/x', {ECHO})", messages_per_second=500)
    with server.raw("/x") as client:
        messages = [f"{i:06}" + "x" * 2000 for i in range(550)]  # 1.1 MB
        thread = threading.Thread(target=client.send, args=(b"".join(frame(TEXT, m) for m in messages),))
        thread.start()
        assert [client.text() for _ in messages] == messages
        thread.join()


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_pings_and_pongs_count(serve, opcode):
    server = serve(f"app.websocket('/x', {{messages_per_second = 0.001}}, {ECHO}) app.websocket('/free', {ECHO})")
    with server.raw("/x") as client, server.raw("/free") as other:
        client.send(frame(opcode, "1") + frame(opcode, "2") + frame(opcode, "3") + HELLO)
        if opcode == PING:
            assert client.frame() == (PONG, b"1")
        round_trips(other, 100)
        assert silent(client)


def test_a_fragmented_message_counts_once(serve):
    server = serve(f"app.websocket('/x', {ECHO})", messages_per_second=0.001)
    with server.raw("/x") as client:
        client.send(frame(TEXT, "a", fin=False) + frame(CONT, "b", fin=False) * 50 + frame(CONT, "c"))
        assert client.text() == "a" + "b" * 50 + "c"


LOG = """app.websocket("/x", function(ws)
  ws:on_text(function(ws, text) log.info("got", text) end)
  ws:on_close(function(ws, code) log.info("closed", code) end)
end)"""


@pytest.mark.parametrize("ended, code", [(False, 1006), (True, 1000)])
def test_what_a_throttled_client_sent_before_it_left_is_handled(serve, ended, code):
    server = serve(LOG, messages_per_second=50)
    client = server.raw("/x")
    client.send(numbered(0, 60) + (frame(CLOSE, close_payload(1000)) if ended else b""))
    client.close()
    server.wait_log(f"closed {code}")
    assert re.findall(r"got (\d+)", server.log) == [f"{i:06}" for i in range(60)]


def test_a_throttled_client_that_vanishes_ends(serve):
    server = serve(LOG, messages_per_second=0.01)
    client = server.raw("/x")
    client.send(numbered(0, 100))
    server.wait_log("got 000000")
    reset(client)
    server.wait_log("closed 1006")
    server.wait_metric("tidewire_connections", 0)
    assert server.metrics()["tidewire_reassembly_bytes"] == 0


def test_a_server_that_stops_does_not_wait_for_throttled_messages(serve):
    server = serve(LOG, messages_per_second=0.001, close_timeout=PATIENCE)
    with server.raw("/x") as client:
        client.send(numbered(0, 100) + frame(CLOSE, close_payload(1001)))
        server.wait_log("got 000000")
        server.process.terminate()
        client.expect_close(1001)
    assert server.stop(None) == 0


# ---- handshakes_per_second ----

@pytest.mark.parametrize("workers", [1, 2])
def test_beyond_handshakes_per_second_is_a_503(serve, workers):
    server = serve(f"app.websocket('/x', {{should_upgrade = function() log.info('asked') return true end}}, {ECHO})",
                   handshakes_per_second=0.001, workers=workers)
    with server.raw("/x") as first:
        for _ in range(10):
            with server.raw() as client:
                client.handshake("/x")
                answer = client.response()
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                client.expect_end()
        for text, status in (("GET /x HTTP/1.1\nHost: h\n\n", 426), ("GET /y HTTP/1.1\nHost: h\n\n", 404)):
            with server.raw() as client:
                assert client.request(text).status == status
        round_trips(first, 3)
    server.wait_log("asked")
    metrics = server.metrics()
    assert metrics['tidewire_upgrades_refused_total{reason="rate"}'] == 10
    assert metrics["tidewire_upgrades_total"] == server.log.count("asked") == 1


def test_refused_handshakes_do_not_count_and_room_comes_back(serve):
    server = serve(f"app.websocket('/x', {ECHO})", handshakes_per_second=20)
    statuses = []
    while statuses.count(101) < 25:
        with server.raw() as client:
            client.handshake("/x", sec_websocket_key="bad" if len(statuses) < 100 else "dGhlIHNhbXBsZSBub25jZQ==")
            statuses.append(client.response().status)
    assert statuses[:100] == [400] * 100
    assert statuses[100:120] == [101] * 20


# ---- max_connections_per_address ----

def refused(server, source=None):
    with connect(server, source) as client:
        answer = client.response()  # without having asked
        assert (answer.status, "max_connections_per_address" in answer.body) == (429, True)
        client.expect_end()


@pytest.mark.parametrize("leave", [Raw.close, reset])
def test_an_address_may_have_so_many_connections_of_any_kind(serve, leave):
    server = serve(f"app.websocket('/x', {ECHO})", max_connections_per_address=3)
    clients = [server.raw("/x"), server.raw(), server.raw("/x")]
    for times in (1, 2):
        refused(server)
        server.wait_metric("tidewire_connections", 3)
        assert server.metrics()['tidewire_connections_refused_total{reason="address"}'] == times
        with connect(server, "127.0.0.2").upgrade("/x") as elsewhere:
            round_trips(elsewhere, 3)
        server.wait_metric("tidewire_connections", 3)
        leave(clients.pop(0))
        server.wait_metric("tidewire_connections", 2)
        clients.append(server.raw("/x"))
    for client in clients[1:]:
        round_trips(client, 1)
    close_all(clients)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_thousand_quick_connections_leak_nothing(serve, workers):
    server = serve(f"app.websocket('/x', {ECHO})", max_connections_per_address=3, workers=workers)
    for i in range(1000):
        client = connect(server)
        try:
            if i % 5 == 1:
                client.handshake("/x")
            elif i % 5 == 2:
                client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            elif i % 5 == 3:
                client.send("\x16\x03\x01")
        except OSError:
            pass
        (reset if i % 2 else Raw.close)(client)
    server.wait_metric("tidewire_connections_accepted_total", 1000)
    server.wait_metric("tidewire_connections", 0)
    clients = [server.raw("/x") for _ in range(3)]
    refused(server)
    close_all(clients)


def test_unix_sockets_are_not_counted(serve, tmp_path):
    serve(f"app.websocket('/x', {ECHO})", max_connections_per_address=1, listen=f"unix:{tmp_path}/s")
    clients = []
    for _ in range(3):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(f"{tmp_path}/s")
        clients.append(Raw(sock).upgrade("/x"))
    close_all(clients)


# ---- on_slow ----

# "go" sends numbered messages of 64 KiB until five have been refused, or the end.
NUMBERS = """app.websocket("/x", {on_slow = "%s", send_limit = "1m"}, function(ws)
  local n, told = 0, 0
  ws:on_drain(function(ws) ws:send("drained") end)
  ws:on_text(function(ws)
    local refused = 0
    repeat
      n = n + 1
      local ok, why = ws:send(("%%08d"):format(n) .. ("x"):rep(65528), function(ok, err)
        if err == "queue full" then told = told + 1 end
      end)
      if not ok then
        refused = refused + 1
        assert(why == (ws.is_closed and refused > 1 and "closed" or "queue full"), why)
      end
    until refused == 5
    assert(ws.buffered <= 1048576)
    app.after(0, function() log.info("sent", n, "told", told) end)
  end)
end)"""


def test_drop_loses_the_newest_and_keeps_the_connection(serve):
    server = serve(NUMBERS % "drop", ping_interval=0)
    last = 0
    with slow(server, "/x") as client:
        for times in (1, 2, 3):
            start = server.mark()
            client.send_frame(TEXT, "go")
            tried, told = map(int, server.wait_log(r"sent (\d+) told (\d+)", start).groups())
            assert told == server.metrics()[DROPPED] == 5 * times
            hurry(client)
            came = []
            while (text := client.text()) != "drained":
                assert len(text) == 65536
                came.append(int(text[:8]))
            assert len(came) == tried - last - 5 and came == sorted(set(came))
            assert came[:3] == [last + 1, last + 2, last + 3] and came[-1] <= tried
            last = tried
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert server.metrics()["tidewire_slow_consumers_closed_total"] == 0


def test_close_sends_what_was_queued_and_1013(serve):
    server = serve(NUMBERS % "close")
    with slow(server, "/x") as client:
        client.send_frame(TEXT, "go")
        tried, told = map(int, server.wait_log(r"sent (\d+) told (\d+)").groups())
        assert told == 1
        hurry(client)
        for i in range(1, tried - 4):
            assert client.text()[:8] == f"{i:08}"
        client.expect_close(1013)
    metrics = server.metrics()
    assert (metrics["tidewire_slow_consumers_closed_total"], metrics[DROPPED]) == (1, 0)


# ---- peers that do not read ----

FOREVER = {
    "a timer": "app.every(0.02, function() for _ = 1, 5 do ws:send(CHUNK) end end)",
    "on_drain": "local function fill() repeat until not ws:send(CHUNK) end ws:on_drain(fill) fill()",
    "another task": "app.spawn(function() while ws:send(CHUNK) or not ws.is_closed do app.sleep(0.02) end end)",
    "control frames": "app.every(0.02, function() ws:send(CHUNK) ws:pong(('p'):rep(125)) end)",
}


@not_under_tsan
@pytest.mark.parametrize("how", FOREVER)
def test_a_peer_that_never_reads_costs_bounded_memory_and_ends(serve, measured, how):
    peers, limit, chunk = 50, 256 * 1024, 16384
    server = serve(f"""CHUNK = ("x"):rep({chunk})
        app.websocket("/x", {{send_limit = {limit}, on_slow = "drop", ping_interval = 0.4}}, function(ws)
          repeat until not ws:send(CHUNK) -- the kernel's part
          {FOREVER[how]}
        end)""")
    slow(server, "/x").close()
    server.wait_metric("tidewire_connections", 0)
    before, most, peak = resident(server), 0, 0
    clients = [slow(server, "/x") for _ in range(peers)]
    while (metrics := server.metrics())["tidewire_websockets"] > 0:
        most = max(most, metrics["tidewire_send_queue_bytes"])
        peak = max(peak, resident(server))
    assert limit < most <= peers * (limit + chunk)
    assert metrics["tidewire_ping_timeouts_total"] >= peers
    assert peak - before < 2 * peers * limit
    server.wait_metric("tidewire_connections", 0)
    assert server.metrics()["tidewire_send_queue_bytes"] == 0
    close_all(clients)


FLOODS = {"pings": frame(PING, "p" * 125), "echoes": frame(TEXT, "x" * 1000),
          "large echoes": frame(TEXT, "x" * 100_000)}


@pytest.mark.parametrize("what", FLOODS)
def test_who_does_not_take_the_answers_is_not_read_from_and_ends(serve, what):
    server = serve(f"app.websocket('/x', {{ping_interval = 0.5}}, {ECHO}) app.websocket('/free', {ECHO})")
    block = FLOODS[what] * (MIB // len(FLOODS[what]))
    sent, most = 0, 0
    with slow(server, "/x") as client, server.raw("/free") as other:
        try:
            for _ in range(300):
                client.send(block)
                sent += len(block)
                most = max(most, server.metrics()["tidewire_send_queue_bytes"])
        except OSError:  # cut while it was sending
            pass
        server.wait_metric("tidewire_websockets", 1)
        metrics = server.metrics()
        round_trips(other, 3)
    assert sent < 100 * MIB and metrics["tidewire_received_bytes_total"] < 50 * MIB
    assert most <= MIB + 100_000
    assert metrics["tidewire_ping_timeouts_total"] == 1
    assert metrics["tidewire_slow_consumers_closed_total"] == 0


# ---- limits of the process ----

FEED = """local peers = {}
app.websocket("/slow", {on_slow = "%s", send_limit = "%s"}, function(ws)
  peers[ws] = true
  ws:on_close(function(ws) peers[ws] = nil end)
end)
app.websocket("/keen", function(ws)
  ws:on_text(function(ws, text)
    for peer in pairs(peers) do for _ = 1, 10 do peer:send(("x"):rep(65536)) end end
    ws:send(text .. ("y"):rep(1000))
  end)
end)"""


@pytest.mark.parametrize("on_slow", ["close", "drop"])
@pytest.mark.parametrize("send_limit", ["512k", "64m"])
def test_all_send_queues_together_stay_within_queue_limit(serve, on_slow, send_limit):
    server = serve(FEED % (on_slow, send_limit), queue_limit=MIB, close_timeout=PATIENCE)
    peers = [slow(server, "/slow") for _ in range(8)]
    with server.raw("/keen") as keen:
        for i in range(40):
            keen.send_frame(TEXT, f"turn {i} ")
            assert keen.text() == f"turn {i} " + "y" * 1000
            assert server.metrics()["tidewire_send_queue_bytes"] <= MIB + len(peers) * 65600
        metrics = server.metrics()
        if on_slow == "close":
            assert metrics["tidewire_slow_consumers_closed_total"] == len(peers)
        else:
            assert metrics[DROPPED] > 0 and metrics["tidewire_websockets"] > 1  # one whose queue was empty may be cut
            assert metrics["tidewire_websockets"] + metrics["tidewire_slow_consumers_closed_total"] == 1 + len(peers)
        close_all(peers)
        server.wait_metric("tidewire_connections", 1)
        assert server.metrics()["tidewire_send_queue_bytes"] == 0


def finish(client):
    """The unfinished message's echo, or the close code that came instead."""
    client.send_frame(CONT)
    opcode, payload = client.frame()
    return len(payload) if opcode == TEXT else int.from_bytes(payload[:2], "big")


# What eight clients send in turn, or how much each sends at once, without an end.
UNFINISHED = {"small pieces": [2000] * 200, "large pieces": [100_000] * 4, "at once": [400_000], "grown": [250_000] * 2}


@pytest.mark.parametrize("how", UNFINISHED)
@pytest.mark.parametrize("workers", [1, 2])
def test_all_unfinished_messages_together_stay_within_reassembly_limit(serve, workers, how):
    server = serve(f"app.websocket('/x', {ECHO})", reassembly_limit=MIB, workers=workers)
    ceiling = MIB * (2 - 1 / workers)  # each worker has its share without asking the others
    clients = [server.raw("/x") for _ in range(8)]
    with server.raw("/x") as other:
        for i, size in enumerate(UNFINISHED[how]):
            for client in clients:
                client.send(frame(CONT if i else TEXT, "x" * size, fin=False))
            round_trips(other, 1)
            assert server.metrics()["tidewire_reassembly_bytes"] <= ceiling
        ends = [finish(client) for client in clients]
        assert set(ends) == {1013, sum(UNFINISHED[how])}
        assert server.metrics()["tidewire_reassembly_refused_total"] == ends.count(1013)
        close_all(clients)
        server.wait_metric("tidewire_connections", 1)
        assert server.metrics()["tidewire_reassembly_bytes"] == 0
        other.send_frame(TEXT, "x" * 500_000, fin=False)
        assert finish(other) == 500_000


def test_a_message_that_grows_does_not_go_beyond_reassembly_limit(serve):
    server = serve(f"app.websocket('/x', {ECHO})", reassembly_limit=MIB)
    clients = [server.raw("/x") for _ in range(3)]
    for client, size in zip(clients, (500_000, 250_000, 120_000)):
        client.send_frame(TEXT, "x" * size, fin=False)
        client.send_frame(PING)
        assert client.frame() == (PONG, b"")
    clients[0].send_frame(CONT, "x" * 50_000, fin=False)
    clients[0].send_frame(PING)
    clients[0].frame()
    assert server.metrics()["tidewire_reassembly_bytes"] <= MIB
    close_all(clients)


def test_memory_for_a_message_is_at_most_four_times_what_has_arrived(serve):
    server = serve(f"app.websocket('/x', {ECHO})")
    size = 512 * 1024 + 1  # a byte more than a power of two
    whole = frame(TEXT, "x" * size)
    quarter = size // 4 + 100
    with server.raw("/x") as client:
        server.send_apart(client, whole[:10_000])
        assert 9_000 < server.wait_metric("tidewire_reassembly_bytes", lambda n: n > 0) <= 40_000
        server.send_apart(client, whole[10_000:quarter])
        server.wait_metric("tidewire_reassembly_bytes", size)
        client.send(whole[quarter:])
        assert client.text() == "x" * size
        server.wait_metric("tidewire_reassembly_bytes", 0)


def test_what_requests_keep_outside_of_lua_is_collected_in_time(serve):
    server = serve("""
        local alive = setmetatable({}, {__mode = "k"})
        app.get("/", function(req)
          local n = 0
          alive[req] = true
          for _ in pairs(alive) do n = n + 1 end
          return tostring(n)
        end)""")
    with server.raw() as client:
        most = 0
        for _ in range(400):
            client.send("GET / HTTP/1.1\r\nHost: x\r\nX: " + "x" * 15_000 + "\r\n\r\n")
            most = max(most, int(client.response().body))
        assert most < 200, "6 MB of request heads wait for Lua's collector"


def test_a_connection_whose_handler_waits_is_paused_at_reassembly_limit_not_closed(serve):
    server = serve("""local go = app.promise()
        app.websocket("/x", function(ws) ws:on_text(function(ws, text) go:await() ws:send(text:sub(1, 6)) end) end)
        app.websocket("/go", function(ws)
          ws:on_text(function(ws, text) if text == "go" then go:resolve(1) end ws:send(text) end)
        end)""", reassembly_limit=MIB, read_ahead="512m", ping_interval=0)
    messages = [frame(TEXT, f"{i:06}" + "x" * 10_000) for i in range(150)]
    with server.raw("/x") as client, server.raw("/go") as judge:
        for message in messages[:105]:  # the first is being handled, the others take a little less than the limit
            client.send(message)
            client.send_frame(PING)
            assert client.frame() == (PONG, b"")
        assert MIB - 20_000 < server.metrics()["tidewire_reassembly_bytes"] <= MIB
        server.send_apart(client, messages[105][:-1])
        client.send(messages[105][-1:] + b"".join(messages[106:]))
        round_trips(judge, 20)
        metrics = server.metrics()
        assert metrics["tidewire_reassembly_refused_total"] == 0, "closed instead of paused"
        assert metrics["tidewire_reassembly_bytes"] < MIB + 40_000
        judge.send_frame(TEXT, "go")
        assert [client.text() for _ in messages] == [f"{i:06}" for i in range(150)]


# ---- between workers ----

def test_below_inbox_limit_nothing_is_lost_and_beyond_it_the_queue_is_full(serve, tmp_path):
    server = serve("""app.websocket("/run", function(ws)
        ws:on_text(function(ws, code) ws:send(tostring(load("local ws = ...; " .. code)(ws))) end)
      end)""", workers=2, handler_budget=PATIENCE, inbox_limit=MIB)
    clients, by_worker = [], {}
    while len(by_worker) < 2:
        assert len(clients) < 200
        clients.append(server.raw("/run"))
        clients[-1].send_frame(TEXT, "return app.worker .. ' ' .. ws.id")
        worker, number = clients[-1].text().split()
        by_worker[worker] = clients[-1], number
    (sender, _), (holder, number) = by_worker.values()
    for size in (10, 1000, 200_000):
        start, go_on = server.mark(), tmp_path / f"go on {size}"
        holder.send_frame(TEXT, f"log.info('held') while not io.open({str(go_on)!r}) do end return 'free'")
        server.wait_log("held", start)
        sender.send_frame(TEXT, f"""local n, ok, why = 0
            repeat
              n = n + 1
              ok, why = app.send({number}, ('%08d'):format(n) .. ('x'):rep({size}))
            until not ok
            return why .. n""")
        why, tried = re.match(r"(\D+)(\d+)", sender.text()).groups()
        assert why == "queue full" and MIB // (size + 200) < int(tried) <= MIB // size + 1
        go_on.touch()
        assert holder.text() == "free"
        for i in range(1, int(tried)):
            assert holder.text()[:8] == f"{i:08}"
    close_all(clients)


# ---- many connections ----

@not_under_tsan
def test_memory_is_flat_over_many_connections(serve, measured):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = CONNECTIONS + 300
    if soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(need, hard), hard))
    server = serve("""app.websocket("/x", function(ws)
        ws.state.n = 0
        ws:on_text(function(ws, text) ws.state.n = ws.state.n + 1 ws:send(text) end)
        ws:on_close(function(ws) assert(ws.state.n <= 1) end)
      end)""")
    sizes = []
    for turn in range(10):
        clients = [connect(server, f"127.0.0.{10 + turn}").upgrade("/x") for _ in range(CONNECTIONS)]
        assert server.metrics()["tidewire_websockets"] == CONNECTIONS
        for client in clients[::2]:
            round_trips(client, 1)
        for i, client in enumerate(clients):
            if i % 3 == 0:
                client.send_frame(CLOSE, close_payload(1000))
                client.expect_close(1000)
            (reset if i % 3 == 1 else Raw.close)(client)
        server.wait_metric("tidewire_connections", 0)
        sizes.append(resident(server))
    assert max(sizes[6:]) - sizes[5] < MIB + CONNECTIONS * 100, sizes  # by then the heap has its size
    metrics = server.metrics()
    for gauge in ("tidewire_websockets", "tidewire_reassembly_bytes", "tidewire_send_queue_bytes",
                  "tidewire_frame_contexts", "tidewire_tasks"):
        assert metrics[gauge] == 0, gauge


# ---- the limits of a route ----

def two_routes(first, second, route=ECHO):
    return f"app.websocket('/a', {{{first}}}, {route}) app.websocket('/b', {{{second}}}, {route}) " \
           f"app.websocket('/c', {{}}, {route})"


def test_max_message_is_the_routes(serve):
    server = serve(two_routes("max_message = 5", "max_message = '1k'"), max_message=20)
    for path, size in (("/a", 5), ("/b", 1024), ("/c", 20)):
        with server.raw(path) as client:
            client.send_frame(TEXT, "x" * size)
            assert client.text() == "x" * size
            client.send_frame(TEXT, "x" * size, fin=False)
            client.send_frame(CONT, "y")
            client.expect_close(1009)


def test_max_frame_is_the_routes(serve):
    server = serve(two_routes("max_frame = 5", "max_frame = 0"), max_frame=20)
    for path, size in (("/a", 5), ("/b", 50_000), ("/c", 20)):
        with server.raw(path) as client:
            client.send_frame(TEXT, "x" * size, fin=False)
            client.send_frame(CONT, "y" * size)
            assert client.text() == "x" * size + "y" * size
            if path != "/b":
                client.send_frame(TEXT, "x" * (size + 1))
                client.expect_close(1009)


def test_send_limit_and_on_slow_are_the_routes(serve):
    big = 8 << 20  # more than the kernel takes
    server = serve(two_routes("send_limit = '1m'", "send_limit = '32m', on_slow = 'drop'", f"""function(ws)
        local big = ("x"):rep({big})
        local results = {{}}
        for i = 1, 6 do results[i] = tostring(ws:send(big)) end
        log.info(ws.request.path, table.concat(results, " "), ws.is_closed)
      end"""), send_limit="17m")
    for path, said in (("/a", "true nil nil nil nil nil true"), ("/b", "true true true true nil nil false"),
                       ("/c", "true true nil nil nil nil true")):
        with slow(server, path):
            assert server.wait_log(path + " (true.*)").group(1) == said
    server.wait_metric("tidewire_connections", 0)


def test_the_pings_are_the_routes(serve):
    show = "function(ws) ws:send(tostring(ws.ping_interval)) end"
    server = serve(two_routes("ping_interval = false", "ping_interval = 0.1", show)
                   + f"app.websocket('/d', {{ping_interval = 0}}, {show})", ping_interval=77)
    with server.raw("/a") as a, server.raw("/b") as b, server.raw("/c") as c, server.raw("/d") as d:
        assert [client.text() for client in (a, b, c, d)] == ["nil", "0.1", "77.0", "nil"]
        for _ in range(3):
            assert b.frame() == (PING, b"")
            b.send_frame(PONG)
        a.send_frame(PING, "only")
        assert a.frame() == (PONG, b"only")


@pytest.mark.parametrize("off", ["0", "false"])
def test_idle_timeout_is_the_routes(serve, off):
    server = serve(two_routes("idle_timeout = 0.3", f"idle_timeout = {off}"), ping_interval=0, idle_timeout=100)
    with server.raw("/a") as a, server.raw("/b") as b, server.raw("/c") as c:
        assert a.frame() == (CLOSE, close_payload(1001, b"idle"))
        for client in (b, c):
            client.send(HELLO)
            assert client.text() == "hello"


def test_close_timeout_is_the_routes(serve):
    server = serve(two_routes("close_timeout = 0.1", "close_timeout = 50", """function(ws)
        ws:close()
        ws:on_close(function(ws, code) log.info("closed", code) end)
      end"""))
    with server.raw("/b") as b, server.raw("/a") as a:
        assert a.frame() == b.frame() == (CLOSE, close_payload(1000))
        server.wait_log("/a] closed 1006")
        b.send_frame(CLOSE, close_payload(1000))
        server.wait_log("/b] closed 1000")


def test_read_ahead_is_the_routes(serve):
    server = serve(two_routes("read_ahead = 0", "read_ahead = '1m'", """function(ws)
        ws:on_text(function(ws, text) log.info("waiting") app.sleep(0.1) ws:send(text) end)
      end"""))
    for path, frames in (("/a", [(TEXT, b"1"), (TEXT, b"2"), (PONG, b"p")]),
                         ("/b", [(PONG, b"p"), (TEXT, b"1"), (TEXT, b"2")])):
        with server.raw(path) as client:  # in one piece: what is read beyond read_ahead is not looked at yet
            client.send(frame(TEXT, "1") + frame(TEXT, "2") + frame(PING, "p"))
            assert [client.frame() for _ in range(3)] == frames


def test_messages_per_second_is_the_routes(serve):
    server = serve(two_routes("messages_per_second = 0.001", "messages_per_second = false"), messages_per_second=1000)
    with server.raw("/a") as a, server.raw("/b") as b:
        a.send(numbered(0, 5))
        assert a.text() == "000000"
        b.send(numbered(0, 500))
        assert [b.text() for _ in range(500)] == [f"{i:06}" for i in range(500)]
        assert server.metrics()[RECEIVED] == 501


def test_one_that_keeps_up_with_on_drain_does_not_keep_the_worker(serve):
    server = serve("""
        app.websocket("/flood", function(ws)
          local block = ("x"):rep(40000)
          local function more() ws:send(block) end
          ws:on_drain(more)
          more()
        end)
        app.websocket("/echo", function(ws) ws:on_text(function(ws, t) ws:send(t) end) end)""", send_limit=65536)
    with server.raw("/flood") as flood, server.raw("/echo") as other:
        stop = threading.Event()

        def read():
            while not stop.is_set() and flood.sock.recv(1 << 20):
                pass
        reader = threading.Thread(target=read)
        reader.start()
        for i in range(20):
            other.send_frame(TEXT, str(i))
            assert other.text() == str(i)
        stop.set()
        reader.join()
