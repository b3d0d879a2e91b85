# SPDX-License-Identifier: MIT
"""HTTP connections: requests one behind the other, bodies on their way, answers by pieces, clients that go or do not
read, proxies in front."""
import gzip
import random
import signal
import socket
import struct
import threading

import pytest

from conftest import PATIENCE

# A handler that waits at a gate goes on when another request opens it.
SITE = """
local gates = {}
local function gate(name)
  gates[name] = gates[name] or app.promise()
  return gates[name]
end
function leaving(what) return setmetatable({}, {__close = function() log.info("left", what) end}) end
app.get("say/:word", function(req) return req.params.word end)
app.get("wait/:name", function(req)
  local x <close> = leaving(req.params.name)
  log.info("waits", req.params.name)
  return gate(req.params.name):await()
end)
app.get("open/:name", function(req) gate(req.params.name):resolve("opened") return "ok" end)
app.get("sleep/:s", function(req) app.sleep(tonumber(req.params.s)) return req.params.s end)
app.get("big", function() return ("x"):rep(65536) end)
app.post("len", function(req) return tostring(#req.body) end)
app.post("echo", function(req) return req.body end)
app.post("tiny", {max_body = 10}, function(req) return req.body end)
app.post("huge", {max_body = "3k"}, function(req) return tostring(#req.body) end)
app.get("late", {request_timeout = 0.1}, function() local x <close> = leaving("late") gate("never"):await() end)
app.get("who", function(req) return req.remote_address end)
app.get("stream", function() return 200, function(write)
  for i = 1, 3 do write("piece" .. i) app.sleep(0) end
end end)
app.get("iterate", function() local n = 0 return 200, function() n = n + 1 return n < 4 and "piece" .. n or nil end end)
app.get("wrap", function()
  return 200, coroutine.wrap(function() for i = 1, 3 do app.sleep(0) coroutine.yield("piece" .. i) end end)
end)
app.get("flood", function() return 200, function(write)
  local x <close> = leaving("flood")
  for _ = 1, 400 do if not write(("x"):rep(65536)) then log.info("write says closed") return end end
end end)
app.get("pour", function()
  local n = 0
  return 200, function() n = n + 1 return n <= 400 and ("x"):rep(65536) or nil end
end)
app.get("broken", function() return 200, function(write) write("begun") error("secret") end end)
app.get("keep/:name", function(req) return 200, function(write)
  kept = write
  write("begun")
  local x <close> = leaving(req.params.name)
  gate(req.params.name):await()
end end)
app.get("then/:name", function(req)
  log.info("waits", req.params.name)
  gate(req.params.name):await()
  return 200, function(write)
    local x <close> = leaving(req.params.name)
    write("begun")
    gate("never"):await()
  end
end)
app.get("kept", function()
  local ok, why = kept("more")
  return tostring(ok) .. " " .. tostring(why)
end)
"""


def get(path, *lines, version="1.1", method="GET"):
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: localhost", *lines, "", ""]).encode()


def post(path, body=None, *lines):
    return get(path, *lines, *([] if body is None else [f"Content-Length: {len(body)}"]), method="POST") + (body or b"")


def chunks(*pieces):
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def expect(client, body, status=200, **headers):
    answer = client.response()
    assert (answer.status, answer.body) == (status, body)
    for name, value in headers.items():
        assert answer.headers.get(name) == value
    return answer


def refusal(client, status, says):
    """An answer with the server's own words is the last one."""
    answer = client.response()
    assert answer.status == status and says in answer.body, (answer.status, answer.body)
    assert answer.headers["connection"] == "close"
    client.expect_end()


def ask(server, path, *lines):
    with server.raw() as client:
        client.send(get(path, *lines))
        return client.response()


def reset(client):
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def read_chunks(client):
    """The pieces of a body in chunks, to its end."""
    pieces = []
    while size := int(client.until(b"\r\n"), 16):
        pieces.append(client.take(size))
        assert client.take(2) == b"\r\n"
    assert client.take(2) == b"\r\n"
    return pieces


# ---- one connection, many requests ----

def test_a_connection_is_kept_for_a_hundred_requests_9112_9_3(serve):
    server = serve(SITE)
    with server.raw() as client:
        for i in range(100):
            client.send(get(f"/say/{i}"))
            assert "connection" not in expect(client, str(i)).headers
        assert server.metrics()["tidewire_connections_accepted_total"] == 1
        client.send(get("/say/last", "Connection: close"))
        expect(client, "last", connection="close")
        client.expect_end()


@pytest.mark.parametrize("lines, version, kept", [
    ([], "1.0", False), (["Connection: keep-alive"], "1.0", True), (["connection: Keep-Alive, x"], "1.0", True),
    (["Connection: close"], "1.1", False), (["Connection: x , CLOSE"], "1.1", False),
    (["Connection: keep-alive", "Connection: close"], "1.1", False), (["Connection: keep-alive, close"], "1.0", False)])
def test_who_asks_says_whether_the_connection_is_kept(serve, lines, version, kept):
    with serve(SITE).raw() as client:
        client.send(get("/say/a", *lines, version=version) + get("/say/b"))
        answer = expect(client, "a", connection="close" if not kept else "keep-alive" if version == "1.0" else None)
        assert answer.headers["content-length"] == "1"
        if kept:
            expect(client, "b")
        else:
            client.expect_end()


def test_pipelined_requests_are_answered_in_order_while_some_wait_9112_9_3_2(serve):
    rng = random.Random(1)
    paths = [rng.choice([f"/sleep/{rng.random() / 100:.4f}", f"/say/{i}"]) for i in range(50)]
    with serve(SITE).raw() as client:
        client.send(b"".join(map(get, paths)))
        for path in paths:
            expect(client, path.rsplit("/", 1)[1])
        client.send(get("/say/after"))
        expect(client, "after")


@pytest.mark.parametrize("read_ahead", [0, 1000])
def test_what_is_pipelined_beyond_read_ahead_waits_and_is_answered(serve, read_ahead):
    server = serve(SITE, read_ahead=read_ahead)
    with server.raw() as client:
        client.send(get("/wait/gate"))
        server.wait_log("waits gate")
        sender = threading.Thread(target=client.send, daemon=True, args=(
            b"".join(get(f"/say/{i}", "X: " + "x" * 5000) for i in range(1000)),))
        sender.start()
        assert ask(server, "/open/gate").body == "ok"
        expect(client, "opened")
        for i in range(1000):
            expect(client, str(i))
        sender.join(PATIENCE)


def never_read(server):
    """Asks for 1.3 GB and reads none of it; returns when the server has ended the connection."""
    with server.raw() as client, pytest.raises(ConnectionError):
        client.send(b"".join(get("/big", "X: " + "x" * 1000) for _ in range(20_000)))
    server.wait_metric("tidewire_connections", 0)


def test_a_client_that_asks_and_never_reads_is_not_read_either(serve):
    server = serve(SITE, send_timeout=0.3, keep_alive_timeout=0.3)
    never_read(server)
    assert server.metrics()["tidewire_http_requests_total"] < 400  # what the kernel takes, and four more
    assert server.metrics()["tidewire_send_queue_bytes"] == 0


def test_send_timeout_is_for_every_answer_however_long_keep_alive_is(serve):
    never_read(serve(SITE, send_timeout=0.3, keep_alive_timeout=3600))


def test_send_timeout_ends_a_stream_that_nobody_reads(serve):
    server = serve(SITE, send_timeout=0.3)
    with server.raw() as client:
        client.send(get("/flood"))
        server.wait_log("left flood")
        server.wait_metric("tidewire_tasks", 0)
        server.wait_metric("tidewire_connections", 0)


def test_a_client_that_reads_slowly_is_no_dead_one(serve):
    server = serve(SITE, send_timeout=0.4, keep_alive_timeout=0.1, send_limit=1000)
    with server.raw() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(get("/flood"))
        client.response()
        assert sum(map(len, read_chunks(client))) == 400 * 65536


# ---- clients that go, and time-outs ----

@pytest.mark.parametrize("behind", [b"", get("/say/x"), get("/say/x", "X: " + "x" * 3000) * 10],
                         ids=["alone", "pipelined", "not being read"])
def test_a_client_that_goes_cancels_its_handler(serve, behind):
    server = serve(SITE, read_ahead=1000)
    client = server.raw()
    client.send(get("/wait/a") + behind)
    server.wait_log("waits a")
    reset(client)
    server.wait_log("left a")
    server.wait_metric("tidewire_tasks", 0)
    server.wait_metric("tidewire_connections", 0)
    assert server.metrics()["tidewire_tasks_cancelled_total"] == 1
    assert ask(server, "/open/a").body == "ok"


def test_a_half_closed_client_gets_its_answer_9112_9_6(serve):
    server = serve(SITE)
    with server.raw() as client, server.raw() as other:
        client.send(get("/wait/a"))
        other.send(get("/say/b") * 3)
        for c in (client, other):
            c.sock.shutdown(socket.SHUT_WR)
        for _ in range(3):
            expect(other, "b")
        other.expect_end()
        server.wait_log("waits a")
        assert ask(server, "/open/a").body == "ok"
        expect(client, "opened")
        client.expect_end()


def test_a_half_closed_client_gets_all_answers_also_behind_one_that_waits(serve):
    server = serve(SITE)
    with server.raw() as client:
        client.send(get("/wait/a") + get("/say/b"))
        client.sock.shutdown(socket.SHUT_WR)
        server.wait_log("waits a")
        assert ask(server, "/open/a").body == "ok"
        expect(client, "opened")
        expect(client, "b")
        client.expect_end()


def test_a_half_closed_client_gets_the_rest_of_a_stream(serve):
    server = serve(SITE)
    with server.raw() as client:
        client.send(get("/keep/a"))
        client.until(b"begun\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert ask(server, "/kept").body == ask(server, "/kept").body == "true nil"
        assert ask(server, "/open/a").body == "ok"
        assert read_chunks(client) == [b"more", b"more"]
        client.expect_end()


def test_a_half_closed_client_that_then_goes_cancels_its_handler(serve):
    server = serve(SITE)
    client = server.raw()
    client.send(get("/wait/a"))
    client.sock.shutdown(socket.SHUT_WR)
    server.wait_log("waits a")
    reset(client)
    server.wait_metric("tidewire_tasks", 0)


def test_a_client_that_goes_from_a_stream_while_it_is_not_read_is_noticed(serve):
    server = serve(SITE, read_ahead=1000)
    client = server.raw()
    client.send(get("/then/a") + get("/say/x", "X: " + "x" * 3000) * 10)
    server.wait_log("waits a")
    assert ask(server, "/open/a").body == "ok"
    assert b"begun" in client.until(b"begun")
    reset(client)
    server.wait_log("left a")
    server.wait_metric("tidewire_tasks", 0)


def test_an_idle_connection_is_closed_without_a_word(serve):
    with serve(SITE, keep_alive_timeout=0.1).raw() as client:
        client.send(get("/say/a"))
        expect(client, "a")
        client.expect_end()


@pytest.mark.parametrize("begun", [b"G", get("/say/b")[:-1], b"\r\n"])
def test_a_second_request_has_handshake_timeout_too(serve, begun):
    with serve(SITE, handshake_timeout=0.1).raw() as client:
        client.send(get("/say/a") + begun)
        expect(client, "a")
        refusal(client, 408, "handshake_timeout")


@pytest.mark.parametrize("begun", [post("/len", b"x" * 9)[:-1], post("/len", None, "Transfer-Encoding: chunked"),
                                   post("/len", None, "Transfer-Encoding: chunked") + chunks(b"x") + b"0\r\n"])
def test_a_body_that_does_not_come_is_408(serve, begun):
    with serve(SITE, body_timeout=0.1).raw() as client:
        client.send(begun)
        refusal(client, 408, "body_timeout")


@pytest.mark.parametrize("begun", [post("/len", b"x" * 9)[:-1],
                                   post("/len", None, "Transfer-Encoding: chunked") + b"3"])
def test_a_body_that_ends_early_is_400(serve, begun):
    with serve(SITE).raw() as client:
        client.send(begun)
        client.sock.shutdown(socket.SHUT_WR)
        refusal(client, 400, "body")


def test_request_timeout_is_503_and_cancels_the_handler(serve):
    server = serve(SITE, request_timeout=0.1)
    for path, left in {"/wait/a": "left a", "/late": "left late"}.items():
        with server.raw() as client:
            client.send(get(path))
            refusal(client, 503, "request_timeout")
        server.wait_log(left)
    server.wait_metric("tidewire_tasks", 0)


def test_a_stream_has_no_request_timeout(serve):
    server = serve(SITE, request_timeout=0.1)
    with server.raw() as client:
        client.send(get("/keep/a"))
        client.until(b"begun\r\n")
        with server.raw() as other:
            other.send(get("/wait/b"))
            refusal(other, 503, "request_timeout")
        assert ask(server, "/open/a").body == "ok"
        assert client.take(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("bad, status", [(b"nonsense\r\n\r\n", 400), (b"\0", 400), (b"x" * 2000, 414), (b"G", 408)],
                         ids=["line", "byte", "long", "late"])
def test_an_error_behind_an_answer_to_head_has_its_body(serve, bad, status):
    with serve(SITE, max_head=1000, handshake_timeout=0.2).raw() as client:
        client.send(get("/say/a", method="HEAD"))
        assert client.response(head_only=True).headers["content-length"] == "1"
        client.send(bad)
        refusal(client, status, str(status))


# ---- bodies ----

def test_a_body_is_followed_by_the_next_request(serve):
    chunked = post("/len", None, "Transfer-Encoding: chunked") + chunks(b"abc", b"de") + b"0\r\n\r\n"
    stream = post("/len", b"abc") + chunked + get("/say/x") + post("/len", b"") + post("/tiny", b"0123456789") + chunked
    server = serve(SITE)
    for cut in range(1, len(stream), 23):
        with server.raw() as client:
            server.send_apart(client, stream[:cut])
            client.send(stream[cut:])
            for body in ("3", "5", "x", "0", "0123456789", "5"):
                expect(client, body)


@pytest.mark.parametrize("path, limit", [("/len", 2000), ("/tiny", 10), ("/huge", 3072)])
def test_a_body_over_max_body_is_413(serve, path, limit):
    server = serve(SITE, max_body=2000)
    for data in (post(path, b"x" * limit), post(path, None, "Transfer-Encoding: chunked") + chunks(b"x" * limit) +
                 b"0\r\n\r\n"):
        with server.raw() as client:
            client.send(data)
            assert client.response().status == 200
    announced = post(path, None, f"Content-Length: {limit + 1}")
    by_chunks = post(path, None, "Transfer-Encoding: chunked") + chunks(b"x" * limit, b"x")
    for data in (announced, announced + b"x" * (limit + 1), by_chunks, by_chunks[:-2]):
        with server.raw() as client:
            client.send(data)
            refusal(client, 413, "max_body")
    assert server.metrics()["tidewire_reassembly_bytes"] == 0


@pytest.mark.parametrize("body", [b"1;" + b"x" * 70_000, b"0\r\n" + b"X: y\r\n" * 20_000], ids=["extension", "trailer"])
def test_what_chunks_bring_along_has_a_limit_9112_7_1_1(serve, body):
    with serve(SITE).raw() as client:
        client.send(post("/len", None, "Transfer-Encoding: chunked") + body)
        refusal(client, 400, "chunks")


@pytest.mark.parametrize("framing, body", [
    ("Content-Length: 3", b"abc"), ("Transfer-Encoding: chunked", chunks(b"abc") + b"0\r\n\r\n")])
def test_100_continue_is_sent_when_the_body_is_wanted_9110_10_1_1(serve, framing, body):
    with serve(SITE).raw() as client:
        client.send(post("/len", None, "Expect: 100-Continue", framing))
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body + get("/say/x"))
        expect(client, "3")
        expect(client, "x")


@pytest.mark.parametrize("path, length, status", [("/len", 1 << 40, 413), ("/none", 3, 404), ("/say/x", 3, 405),
                                                  ("/tiny", 11, 413)])
def test_100_continue_is_not_sent_for_a_body_that_nobody_wants(serve, path, length, status):
    with serve(SITE).raw() as client:
        client.send(post(path, None, "Expect: 100-continue", f"Content-Length: {length}"))
        refusal(client, status, str(status))


def test_there_is_no_100_continue_for_http_1_0_or_without_a_body(serve):
    server = serve(SITE)
    with server.raw() as client:
        client.send(get("/len", "Expect: 100-continue", "Content-Length: 1", version="1.0", method="POST"))
        client.send(b"x")
        expect(client, "1")
    with server.raw() as client:
        client.send(post("/len", b"", "Expect: 100-continue"))
        expect(client, "0")


# ---- stopping and reloading ----

def test_a_request_that_never_ends_is_cut_at_the_end_of_drain_timeout(serve):
    server = serve(SITE, drain_timeout=0.5)
    with server.raw() as waiting:
        waiting.send(get("/wait/a"))
        server.wait_log("waits a")
        server.send_signal(signal.SIGTERM)
        waiting.expect_end()
        server.wait_log("left a")
    assert server.stop(None) == 0
    assert "1 connections were still open at the end of drain_timeout" in server.log


def test_an_answer_that_comes_in_time_is_finished_while_the_server_stops(serve):
    server = serve(SITE + "app.get('soon', function() log.info('soon') app.sleep(0.2) return 'soon' end)")
    with server.raw() as client, server.raw() as stream:
        client.send(get("/soon"))
        stream.send(get("/stream"))
        assert stream.response().status == 200
        server.wait_log("soon")
        server.send_signal(signal.SIGTERM)
        assert b"".join(read_chunks(stream)) == b"piece1piece2piece3"
        expect(client, "soon", connection="close")
        client.expect_end()


@pytest.mark.parametrize("framing, body", [
    ("Content-Length: 6", b"abcdef"), ("Transfer-Encoding: chunked", chunks(b"abc", b"def") + b"0\r\n\r\n")])
def test_a_reload_while_a_body_is_on_its_way(serve, framing, body):
    server = serve(SITE)
    with server.raw() as client, server.raw() as waiting:
        waiting.send(get("/wait/a") + get("/say/x"))
        server.wait_log("waits a")
        server.send_apart(client, post("/len", None, framing) + body[:5])
        assert ask(server, "/open/a").body == "ok"  # the promise is of the old code
        expect(waiting, "opened")
        expect(waiting, "x")
        assert server.reload("app.post('len', function(req) return 'new ' .. req.body end)")
        client.send(body[5:])
        expect(client, "new abcdef")


def test_a_route_that_a_reload_takes_away_while_a_body_is_on_its_way_is_404(serve):
    server = serve(SITE)
    with server.raw() as client:
        server.send_apart(client, post("/len", b"abc")[:-1])
        assert server.reload("app.get('other', function() end)")
        client.send(b"c")
        assert client.response().status == 404


def test_a_handler_that_waits_outlives_a_reload(serve):
    server = serve("app.get('x', function() app.sleep(0.2) return 'old' end) app.get('y', function() log.info('here') "
                   "app.sleep(0.2) return 'old' end)")
    with server.raw() as client:
        client.send(get("/y"))
        server.wait_log("here")
        assert server.reload("app.get('y', function() return 'new' end)")
        client.send(get("/y"))
        expect(client, "old")
        expect(client, "new")


# ---- answers by pieces ----

@pytest.mark.parametrize("path", ["/stream", "/iterate", "/wrap"])
def test_a_streamed_answer_is_in_chunks_and_for_http_1_0_ends_with_the_connection(serve, path):
    server = serve(SITE)
    with server.raw() as client:
        client.send(get(path) + get(path, method="HEAD") + get("/say/x"))
        answer = client.response()
        assert answer.headers["transfer-encoding"] == "chunked" and "content-length" not in answer.headers
        assert read_chunks(client) == [b"piece1", b"piece2", b"piece3"]
        assert client.response(head_only=True).status == 200
        expect(client, "x")
        client.send(get(path, "Connection: keep-alive", version="1.0"))
        answer = client.response()
        assert "transfer-encoding" not in answer.headers and answer.headers["connection"] == "close"
        assert client.take(18) == b"piece1piece2piece3"
        client.expect_end()


@pytest.mark.parametrize("path", ["/flood", "/pour"])
def test_a_stream_waits_for_its_reader_and_all_of_it_arrives(serve, path):
    server = serve(SITE, send_limit=131072)
    with server.raw() as client:
        client.send(get(path))
        server.wait_metric("tidewire_tasks", 1)
        assert server.metrics()["tidewire_send_queue_bytes"] <= 131072 + 65536
        assert server.metrics()["tidewire_tasks"] == 1
        client.response()
        assert sum(map(len, read_chunks(client))) == 400 * 65536
        client.send(get("/say/x"))
        expect(client, "x")


def test_a_writer_that_waits_goes_on_also_when_others_write(serve, tmp_path):
    flag = tmp_path / "read"
    server = serve(SITE + f"""
      app.get("poke", function()  -- the worker sees that the queue may go on only in here
        local f
        log.info("poked")
        repeat f = io.open("{flag}") until f
        f:close()
        return tostring(kept(("a"):rep(65536))) .. tostring(kept("b"))  -- the first finds it full, and flushes it
      end)
      app.get("fill", function() return 200, function(write)
        kept = write
        for _ = 1, 1000 do write(("x"):rep(16384)) end
      end end)""", send_limit=65536)
    with server.raw() as client, server.raw() as other:
        client.send(get("/fill"))
        server.wait_metric("tidewire_tasks", 1)
        other.send(get("/poke"))
        server.wait_log("poked")
        sent = server.metrics()["tidewire_sent_bytes_total"]
        while len(client.buffer) < sent:
            client.buffer += client.sock.recv(65536)
        flag.touch()
        expect(other, "truetrue")
        client.response()
        assert sum(map(len, read_chunks(client))) == 1000 * 16384 + 65537


def test_an_error_within_a_stream_ends_it_without_the_last_chunk(serve):
    server = serve(SITE)
    with server.raw() as client:
        client.send(get("/broken") + get("/say/x"))
        client.response()
        assert client.until(b"begun\r\n") == b"5\r\nbegun\r\n"
        client.expect_end()
    server.wait_log("secret")
    assert server.metrics()['tidewire_handler_errors_total{reason="error"}'] == 1


@pytest.mark.parametrize("piece", ["nil", "{}", "true"])
def test_a_piece_that_is_no_string_is_an_error(serve, piece):
    server = serve(f"app.get('x', function() return 200, function(write) write({piece}) end end)")
    with server.raw() as client:
        client.send(get("/x"))
        client.response()
        client.expect_end()
    server.wait_log("string expected")


def test_write_tells_that_the_client_has_gone(serve):
    server = serve(SITE)
    with server.raw() as client:
        client.send(get("/flood"))
        client.until(b"\r\n\r\n")
        reset(client)
    server.wait_log("left flood")
    client = server.raw()
    client.send(get("/keep/a"))
    client.until(b"begun")
    assert ask(server, "/kept").body == "true nil"
    client.until(b"more")
    reset(client)
    server.wait_log("left a")
    assert ask(server, "/kept").body == "nil closed"


def test_write_after_the_end_tells_closed_and_sends_nothing(serve):
    server = serve(SITE)
    with server.raw() as client:
        client.send(get("/stream") + get("/keep/a"))
        client.until(b"begun")
        assert ask(server, "/open/a").body == "ok"
        client.until(b"0\r\n\r\n")
        assert ask(server, "/kept").body == "nil closed"
        client.send(get("/say/x"))
        expect(client, "x")


# ---- gzip ----

LONG = "longer text " * 200
ZIPPED = """
local text = ("longer text "):rep(200)
app.get("text", function() return text end)
app.get("json", function() return {text} end)
app.get("strong", function() return 200, text, {etag = '"a"', A = "b"} end)
app.get("weak", function() return 200, text, {ETag = 'W/"b"'} end)
app.get("short", function() return text:sub(1, 1023) end)
app.get("enough", function() return text:sub(1, 1024) end)
app.get("noise", function() local s = {} for i = 1, 4000 do s[i] = string.char(math.random(0, 255)) end
  return table.concat(s) end)
app.get("image", function() return 200, text, {["Content-Type"] = "image/png"} end)
app.get("coded", function() return 200, text, {["content-encoding"] = "identity"} end)
app.get("error", function() return 404, text end)
app.get("stream", function() return 200, function(write) write(text) end end)
app.get("none", function() return 304, text end)
"""


def unzip(server, path, accept="gzip", method="GET"):
    """(whether it was compressed, its length as sent, the text, header fields)"""
    with server.raw() as client:
        client.send(get(path, f"Accept-Encoding: {accept}", "Connection: close", method=method))
        head = client.until(b"\r\n\r\n").decode().lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        body = client.take(int(fields["content-length"])) if method == "GET" and "content-length" in fields else b""
        zipped = fields.get("content-encoding") == "gzip"
        return zipped, len(body), gzip.decompress(body) if zipped else body, fields


@pytest.mark.parametrize("path", ["/text", "/json", "/enough"])
def test_long_text_is_compressed_when_asked(serve, path):
    server = serve(ZIPPED)
    plain = unzip(server, path, "identity")[2]
    zipped, length, text, fields = unzip(server, path)
    assert zipped and length < len(plain) / 2 and text == plain
    assert "accept-encoding" in fields["vary"] and "accept-encoding" in unzip(server, path, "identity")[3]["vary"]
    assert LONG[:1000] in text.decode()


@pytest.mark.parametrize("accept, tags", [("gzip", ['w/"a"', 'w/"b"']), ("br", ['"a"', 'w/"b"'])])
def test_a_strong_tag_is_weak_when_the_body_is_compressed_9110_8_8_1(serve, accept, tags):
    server = serve(ZIPPED)
    assert [unzip(server, path, accept)[3]["etag"] for path in ("/strong", "/weak")] == tags


@pytest.mark.parametrize("path", ["/short", "/noise", "/image", "/coded", "/error"])
def test_what_is_not_worth_it_is_not_compressed(serve, path):
    zipped, length, _, fields = unzip(serve(ZIPPED), path)
    assert not zipped and length >= 1023 and fields.get("content-encoding", "identity") == "identity"


@pytest.mark.parametrize("accept, zipped", [
    ("gzip, deflate, br", True), ("*", True), ("GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip;q=0.000, *", False),
    ("*;q=0", False), ("br", False), ("identity", False), ("", False), ("xgzip", False)])
def test_accept_encoding_decides_9110_12_5_3(serve, accept, zipped):
    server = serve(ZIPPED)
    assert unzip(server, "/text", accept)[0] == zipped
    assert unzip(server, "/text", accept)[2].decode() == LONG


def test_nothing_is_compressed_that_has_no_body_or_when_gzip_is_off(serve):
    server = serve(ZIPPED)
    assert not unzip(server, "/text", method="HEAD")[0] and not unzip(server, "/none")[0]
    assert not unzip(serve(ZIPPED, gzip="false"), "/text")[0]


# ---- proxies ----

@pytest.mark.parametrize("trusted, lines, who", [
    ("127.0.0.1", [], "127.0.0.1"), ("127.0.0.1", ["X-Forwarded-For: 192.0.2.1"], "192.0.2.1"),
    ("loopback,10.0.0.0/8", ["X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.1.2.3"], "192.0.2.1"),
    ("127.0.0.1", ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.1"], "192.0.2.1"),
    ("127.0.0.1", ['Forwarded: for=6.6.6.6, for="[2001:db8::1]:99";proto=https'], "2001:db8::1"),
    ("127.0.0.1", ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=6.6.6.6"], "192.0.2.1"),
    ("127.0.0.1", ["X-Forwarded-For: 6.6.6.6, unknown"], "127.0.0.1"),
    ("10.0.0.0/8", ["X-Forwarded-For: 6.6.6.6", "Forwarded: for=6.6.6.6"], "127.0.0.1"),
    (None, ["X-Forwarded-For: 6.6.6.6"], "127.0.0.1")])
def test_the_client_is_who_trusted_proxies_say(serve, trusted, lines, who):
    server = serve(SITE, **({"trusted_proxies": trusted} if trusted else {}))
    assert ask(server, "/who", *lines).body == who
    assert ask(server, "/who").body == "127.0.0.1"


V2 = b"\r\n\r\n\0\r\nQUIT\n"
V2_TCP4 = V2 + b"\x21\x11" + struct.pack(">H", 12) + socket.inet_aton("192.0.2.7") + b"\x7f\0\0\1" + b"\0\1\0\2"
PROXY_LINES = {
    "v1": (b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n", "192.0.2.7"),
    "v1 over IPv6": (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", "2001:db8::7"),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "v2": (V2_TCP4, "192.0.2.7"),
    "v2 with more": (V2_TCP4.replace(b"\0\x0c", b"\0\x10", 1) + b"\x04\0\1x", "192.0.2.7"),
    "v2 local": (V2 + b"\x20\0\0\0", "127.0.0.1"),
}


@pytest.fixture
def proxied(serve):
    return lambda **options: serve(SITE, **{"listen": "proxy:127.0.0.1:0", "trusted_proxies": "127.0.0.1", **options})


@pytest.mark.parametrize("line, who", PROXY_LINES.values(), ids=PROXY_LINES.keys())
def test_the_proxy_protocol_says_who_the_client_is(proxied, line, who):
    server = proxied()
    with server.raw() as client:
        client.send(line + get("/who") + get("/who", "X-Forwarded-For: 6.6.6.6"))
        expect(client, who)
        expect(client, "6.6.6.6" if who == "127.0.0.1" else who)  # this client is no trusted proxy
    with server.raw() as client:
        server.send_apart(client, *[bytes([byte]) for byte in line])
        client.send(get("/who"))
        expect(client, who)


@pytest.mark.parametrize("line", [
    get("/who"), b"PROXY TCP4 192.0.2.7\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", b"PROXY " + b"x" * 200,
    b"proxy TCP4 192.0.2.7 127.0.0.1 1 2\r\n", b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\n" + get("/who"),
    V2 + b"\x11\x11\0\x0c" + b"\0" * 12, V2 + b"\x21\x11\0\4" + b"\0" * 4, V2 + b"\x21\x11\xff\xff",
    b"\r\n\r\n\0\r\nQUIX"],
    ids=lambda line: repr(line[:40]))
def test_what_is_not_the_proxy_protocol_is_closed_without_an_answer(proxied, line):
    server = proxied()
    with server.raw() as client:
        client.send(line)
        ended(client)
    server.wait_log("does not: closed")
    assert server.metrics()["tidewire_http_requests_total"] == 0


def ended(client):
    """The connection is over, by a reset or in order, and nothing was said."""
    try:
        client.expect_end()
    except ConnectionResetError:
        pass


def test_a_proxy_that_is_not_trusted_or_says_nothing_is_closed(proxied):
    for server in (proxied(trusted_proxies="10.0.0.0/8"), proxied(proxy_timeout=0.1)):
        with server.raw() as client:
            ended(client)
    server = proxied(proxy_timeout=0.1)
    with server.raw() as client:
        client.send(b"PROXY TCP4 ")
        ended(client)
    with server.raw() as client:
        client.send(PROXY_LINES["v1"][0])
        client.send(get("/who"))
        expect(client, "192.0.2.7")


def test_places_by_address_are_counted_for_the_client_behind_the_proxy(proxied):
    server = proxied(max_connections_per_address=1)
    with server.raw() as first, server.raw() as second, server.raw() as third:
        for client, line, status in ((first, "v1", 200), (second, "v2", 429), (third, "v1 over IPv6", 200)):
            client.send(PROXY_LINES[line][0] + get("/who"))
            assert client.response().status == status
