# SPDX-License-Identifier: MIT
"""What scripts can do with a WebSocket beyond messages and the Close: pings and pongs, the send queue's end, fields,
state, and reaching any connection by its id."""
import signal
import socket

import pytest

from conftest import BINARY_OP, CLOSE, CONT, PATIENCE, PING, PONG, TEXT, Raw, close_payload, frame, run

# A client of /run sends Lua code, in which `ws` is its own WebSocket, and is told what became of it: "true" and the
# results, or "false" and the error. `kept` lasts from one piece of code to the next.
RUN = """
kept = {}
local function note(...)
  for _, name in ipairs({...}) do kept[name] = (kept[name] or 0) + 1 end
end
app.websocket("/run", function(ws)
  ws:on_text(function(ws, code)
    local results = table.pack(pcall(assert(load("local ws, note = ...; " .. code, "=code")), ws, note))
    for i = 1, results.n do results[i] = tostring(results[i]) end
    ws:send(table.concat(results, " "))
  end)
end)
"""

BIG = 8 << 20  # more than the kernel takes for a client that does not read


def ask(client, code):
    client.send_frame(TEXT, code)
    return client.text()


def slow_client(server, path):
    """A client whose kernel takes little, so that what it does not read soon waits in the server."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    return server.wrap(sock).upgrade(path)


def read_big(client, size=BIG):
    """Reads a message of `size` bytes, at least 64 KiB, and throws it away."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    head = client.take(10)
    assert head[1] == 127 and int.from_bytes(head[2:], "big") == size, head
    room = bytearray(1 << 20)
    left = size - len(client.buffer)
    client.buffer = client.buffer[size:]
    while left > 0:
        n = client.sock.recv_into(room, min(left, len(room)))
        assert n > 0, "the server closed within a message"
        left -= n


def spread(server, workers, path="/run"):
    """Clients of /run, at least two on each worker, as [(client, id, worker)]."""
    clients, per_worker = [], dict.fromkeys(range(1, workers + 1), 0)
    while min(per_worker.values()) < 2:
        assert len(clients) < 500, per_worker
        client = server.raw(path)
        _, number, worker = ask(client, "return ws.id, app.worker").split()
        clients.append((client, int(number), int(worker)))
        per_worker[int(worker)] += 1
    return clients


def pair(clients, same):
    """Two of spread()'s clients, on the same worker or on two."""
    a = clients[0]
    return next((a, b) for b in clients[1:] if (b[2] == a[2]) == same)


# ---- pings and pongs that arrive ----

PAYLOADS = {"empty": b"", "text": b"mark", "bytes": b"\0\xff\n", "125 bytes": bytes(range(125))}
ON_PING = {
    "no handler": "",
    "a handler": 'ws:on_ping(function(ws, payload) ws:send_binary("got " .. payload) end)',
    "a removed handler": 'ws:on_ping(function(ws) ws:send("wrong") end) ws:on_ping(nil)',
}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("handler", ON_PING)
def test_a_ping_is_answered_first_and_then_told(serve, handler, payload):  # RFC 6455, 5.5.2 and 5.5.3
    server = serve(f'app.websocket("/x", function(ws) {ON_PING[handler]} end)')
    with server.raw("/x") as client:
        for _ in range(2):
            client.send_frame(PING, PAYLOADS[payload])
            assert client.frame() == (PONG, PAYLOADS[payload])
            if handler == "a handler":
                assert client.frame() == (BINARY_OP, b"got " + PAYLOADS[payload])
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pong_is_told_and_not_answered(serve, payload):
    server = serve(RUN)
    with server.raw("/run") as client:
        client.send_frame(PONG, PAYLOADS[payload])  # nobody is interested
        ask(client, "ws:on_pong(function(ws, payload) ws:send_binary('got ' .. payload) end)")
        client.send_frame(PONG, PAYLOADS[payload])
        assert client.frame() == (BINARY_OP, b"got " + PAYLOADS[payload])
        ask(client, "ws:on_pong(nil)")
        client.send_frame(PONG, PAYLOADS[payload])
        assert ask(client, "return 'alive'") == "true alive"


def test_pings_and_pongs_have_handlers_of_their_own(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        ask(client, "ws:on_ping(function() note('ping') end) ws:on_pong(function() note('pong') end)")
        for opcode in (PING, PONG, PONG):
            client.send_frame(opcode, "x")
        assert client.frame() == (PONG, b"x")
        assert ask(client, "return kept.ping, kept.pong") == "true 1 2"
        ask(client, "ws:on_pong(function() note('other') end)")
        client.send_frame(PONG, "x")
        assert ask(client, "return kept.pong, kept.other") == "true 2 1"


def test_a_ping_within_a_fragmented_message_is_told_before_the_message(serve):  # RFC 6455, 5.4
    server = serve("""
        app.websocket("/x", function(ws)
          ws:on_ping(function(ws, payload) ws:send("ping " .. payload) end)
          ws:on_text(function(ws, text) ws:send("text " .. text) end)
        end)""")
    with server.raw("/x") as client:
        client.send(frame(TEXT, "he", fin=False) + frame(PING, "1") + frame(CONT, "l", fin=False) + frame(PING, "2") +
                    frame(CONT, "lo"))
        got = [client.frame() for _ in range(5)]
    assert got == [(PONG, b"1"), (TEXT, b"ping 1"), (PONG, b"2"), (TEXT, b"ping 2"), (TEXT, b"text hello")]


def test_after_the_close_pings_and_pongs_are_neither_told_nor_answered(serve):
    server = serve("""
        app.websocket("/x", function(ws)
          ws:on_ping(function() log.info("told") end)
          ws:on_pong(function() log.info("told") end)
          ws:on_text(function() ws:close() end)
          ws:on_close(function() log.info("over") end)
        end)""")
    with server.raw("/x") as client:
        client.send(frame(TEXT, "go") + frame(PING, "x") + frame(PONG, "x") + frame(CLOSE, close_payload(1000)))
        client.expect_close(1000)
    server.wait_log("over")
    assert "told" not in server.log


@pytest.mark.parametrize("event, opcode", [("on_ping", PING), ("on_pong", PONG)])
def test_an_error_in_its_handler_closes_with_1011(serve, event, opcode):
    server = serve(RUN + f"""
        app.websocket("/x", function(ws)
          ws:{event}(function() error("boom") end)
          ws:on_close(function(_, code) log.info("over", code, ws.close_code) end)
        end)""")
    with server.raw("/run") as neighbour, server.raw("/x") as client:
        client.send(frame(opcode, "x") + frame(opcode, "x"))
        if opcode == PING:
            assert client.frame() == (PONG, b"x")
        client.expect_close(1011)
        server.wait_log("over 1011 1011")
        server.wait_log(r"error \[worker 1, connection \d+, /x\] .*main\.lua:\d+: boom\n    stack traceback:")
        assert ask(neighbour, "return 1") == "true 1"
    assert server.metrics()['tidewire_handler_errors_total{reason="error"}'] == 1


@pytest.mark.parametrize("method", ["on_ping", "on_pong", "on_drain"])
def test_a_handler_is_a_function_or_nil(serve, method):
    server = serve(RUN)
    with server.raw("/run") as client:
        for value in ("1", "'f'", "{}", "true", ""):
            answer = ask(client, f"ws:{method}({value})")
            assert answer.startswith("false code:1:") and "function expected" in answer, answer
        assert ask(client, f"ws:{method}(nil) ws:{method}(print)") == "true"


# ---- pings and pongs that are sent ----


def test_pings_pongs_and_messages_leave_in_order(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        client.send_frame(TEXT, r"""
            ws:send("a") local one = ws:ping() ws:send("b") local two = ws:ping("p\0q")
            local three = ws:pong() ws:send_binary("c") local four = ws:pong(("x"):rep(125))
            return one, two, three, four, ws:ping(12)""")
        got = [client.frame() for _ in range(8)]
        assert client.text() == "true true true true true true"
        assert got == [(TEXT, b"a"), (PING, b""), (TEXT, b"b"), (PING, b"p\0q"), (PONG, b""), (BINARY_OP, b"c"),
                       (PONG, b"x" * 125), (PING, b"12")]


def test_a_pong_of_the_script_follows_the_servers_own(serve):
    server = serve('app.websocket("/x", function(ws) ws:on_ping(function() ws:pong("mine") ws:ping("back") end) end)')
    with server.raw("/x") as client:
        client.send(frame(PING, "1") + frame(PING, "2"))
        got = [client.frame() for _ in range(6)]
    assert got == [(PONG, b"1"), (PONG, b"mine"), (PING, b"back"), (PONG, b"2"), (PONG, b"mine"), (PING, b"back")]


BAD_PAYLOADS = {
    "('x'):rep(126)": "{0}: the payload has 126 bytes",
    "('x'):rep(1 << 20)": "{0}: the payload has 1048576 bytes",
    "{{}}": "string expected",
    "true": "string expected",
    "print": "string expected",
}


@pytest.mark.parametrize("method", ["ping", "pong"])
@pytest.mark.parametrize("payload", BAD_PAYLOADS)
def test_a_bad_payload_raises_and_sends_nothing(serve, method, payload):  # RFC 6455, 5.5: at most 125 bytes
    server = serve(RUN)
    with server.raw("/run") as client:
        answer = ask(client, f"return ws:{method}({payload.format()})")
        assert answer.startswith("false code:1: ") and BAD_PAYLOADS[payload].format("ws:" + method) in answer, answer
        client.send_frame(PING, "alive")
        assert client.frame() == (PONG, b"alive")


def test_pings_and_pongs_to_a_closed_connection_say_closed(serve):
    server = serve("""
        local gone
        local function try(when)
          local ping, why = gone:ping("x")
          log.info(when, ping, why, gone:pong())
        end
        app.websocket("/x", function(ws)
          gone = ws
          ws:on_text(function() ws:close() try("closing") end)
          ws:on_close(function() try("closed") end)
        end)
        app.websocket("/later", function() try("later") end)""")
    with server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    server.wait_metric("tidewire_websockets", 0)
    server.raw("/later").close()
    for when in ("closing", "closed", "later"):
        server.wait_log(f"{when} nil closed nil closed")


def test_pings_and_pongs_are_exempt_from_send_limit(serve):
    server = serve(f"""
        app.websocket("/slow", function(ws)
          log.info(ws:send(("x"):rep({BIG})), ws:ping(("p"):rep(125)), ws:pong("q"))
          log.info(ws:send("y"))
        end)""", send_limit=100)
    with slow_client(server, "/slow") as client:
        server.wait_log("true true true\n.* nil queue full")
        read_big(client)
        assert client.frame() == (PING, b"p" * 125)
        assert client.frame() == (PONG, b"q")
        client.expect_close(1013)


# ---- the send queue ----

# "big" fills the queue of a slow client, "count" says how often on_drain came.
DRAIN = f"""
app.websocket("/x", function(ws)
  local drained = 0
  ws:on_drain(function(...)
    drained = drained + 1
    assert(select("#", ...) == 1 and ... == ws and ws.buffered == 0)
    ws:send("drained")
  end)
  ws:on_text(function(ws, text)
    if text == "big" then
      ws:send(("x"):rep({BIG}))
      log.info("waiting")
    elseif text == "count" then
      ws:send(tostring(drained))
    else
      for n in text:gmatch("%d+") do ws:send_binary(("x"):rep(tonumber(n))) end
    end
  end)
  ws:on_close(function() log.info("closed after", drained) end)
end)
"""


def test_on_drain_is_told_once_each_time_the_queue_has_emptied(serve):
    server = serve(DRAIN)
    with slow_client(server, "/x") as client:
        for times in ("1", "2", "3"):
            start = server.mark()
            client.send_frame(TEXT, "big")
            server.wait_log("waiting", start)
            read_big(client)
            assert client.text() == "drained"
            client.send_frame(TEXT, "count")
            assert client.text() == times


# Sizes of messages sent by one handler, and whether their frames (4 bytes longer) are over half of 1,000 bytes.
QUEUES = {"": False, "400": False, "496": False, "497": True, "200 200": False, "300 300": True, "2000": True}


@pytest.mark.parametrize("sizes", QUEUES)
def test_on_drain_is_told_only_after_more_than_half_of_send_limit(serve, sizes):
    server = serve(DRAIN, send_limit=1000)
    with server.raw("/x") as client:
        for times in (1, 2):
            client.send_frame(TEXT, sizes)
            for n in map(int, sizes.split()):
                assert client.frame() == (BINARY_OP, b"x" * n)
            if QUEUES[sizes]:
                assert client.text() == "drained"
            client.send_frame(TEXT, "count")
            assert client.text() == (str(times) if QUEUES[sizes] else "0")


def test_on_drain_is_told_when_a_send_has_made_room_for_itself(serve):
    server = serve(DRAIN, send_limit=1000)
    with server.raw("/x") as client:  # the second message has the first one flushed, for both exceed the limit
        client.send_frame(TEXT, "800 400")
        assert [len(client.frame()[1]) for _ in range(2)] == [800, 400]
        assert client.text() == "drained"
        client.send_frame(TEXT, "count")
        assert client.text() == "1"


def test_on_drain_is_not_told_after_ws_close(serve):
    server = serve(DRAIN + f"""
        app.websocket("/y", function(ws)
          ws:on_drain(function() log.info("drained") end)
          ws:on_text(function() ws:send(("x"):rep({BIG})) ws:close() end)
          ws:on_close(function() log.info("over") end)
        end)""")
    with slow_client(server, "/y") as client:
        client.send_frame(TEXT, "go")
        read_big(client)
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    server.wait_log("over")
    assert "drained" not in server.log


def test_on_drain_is_not_told_when_the_connection_breaks(serve):
    server = serve(DRAIN)
    with slow_client(server, "/x") as client:
        client.send_frame(TEXT, "big")
        client.take(10)
    server.wait_log("closed after 0")


def test_on_drain_can_be_replaced_and_removed(serve):
    server = serve(RUN, send_limit=100)
    with server.raw("/run") as client:
        fill = "ws:send_binary(('x'):rep(90)) return "
        for handler, count in [("function() note('a') end", "1 nil"), ("function() note('b') end", "1 1"),
                               ("nil", "1 1")]:
            client.send_frame(TEXT, f"ws:on_drain({handler}) {fill}")
            assert client.frame() == (BINARY_OP, b"x" * 90)
            assert client.text() == "true"
            assert ask(client, "return kept.a, kept.b") == "true " + count


def test_an_error_in_on_drain_closes_with_1011(serve):
    server = serve("""
        app.websocket("/x", function(ws)
          ws:on_drain(function() error("boom") end)
          ws:on_close(function(_, code) log.info("over", code) end)
          ws:on_text(function(ws) ws:send(("x"):rep(60)) end)
        end)""", send_limit=100)
    with server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        assert client.text() == "x" * 60
        client.expect_close(1011)
    server.wait_log("over 1011")
    assert server.log.count("boom") == 1


def test_buffered_is_what_the_kernel_has_not_taken(serve):
    server = serve(RUN + f"""
        app.websocket("/slow", function(ws)
          slow = ws
          ws:send(("x"):rep({BIG}))
        end)""")
    with server.raw("/run") as client, slow_client(server, "/slow") as slow:
        assert ask(client, "local a = ws.buffered ws:send('hello') return a, ws.buffered").encode() == b"hello"
        assert client.text() == "true 0 7"  # with the frame's header of two bytes
        waiting = int(ask(client, "return math.type(slow.buffered) == 'integer' and slow.buffered").split()[1])
        assert 0 < waiting < BIG
        read_big(slow)
        slow.send_frame(PING, "there?")
        assert slow.frame() == (PONG, b"there?")
        assert ask(client, "return slow.buffered") == "true 0"


# ---- keep-alive ----


def pings(client, count):
    for _ in range(count):
        assert client.frame() == (PING, b"")
        client.send_frame(PONG)


def test_ping_interval_begins_as_configured(serve):
    for option, value in [("20", "20"), ("1m", "60"), ("0", "nil")]:
        server = serve(RUN, ping_interval=option)
        with server.raw("/run") as client:
            assert ask(client, f"return ws.ping_interval == {value}") == "true true"


@pytest.mark.parametrize("where", ["route function", "handler"])
def test_setting_ping_interval_starts_pings(serve, where):
    server = serve("""
        app.websocket("/x", function(ws)
          if ws.request.query.now then ws.ping_interval = 0.1 end
          ws:on_text(function(ws) ws.ping_interval = 0.1 end)
        end)""", ping_interval=0)
    with server.raw("/x?now" if where == "route function" else "/x") as client:
        if where == "handler":
            client.send_frame(TEXT, "go")
        pings(client, 3)


@pytest.mark.parametrize("where", ["route function", "handler"])
def test_ping_interval_nil_stops_pings(serve, where):
    server = serve(RUN + """
        app.websocket("/x", function(ws)
          ws:on_text(function(ws, text) ws:send(text) end)
          ws:on_ping(function(ws) ws.ping_interval = nil end)
          if ws.request.query.now then ws.ping_interval = nil end
        end)""", ping_interval=0.1)
    with server.raw("/x?now" if where == "route function" else "/x") as client:
        if where == "handler":
            pings(client, 2)
            client.send_frame(PING, "stop")
            while (got := client.frame()) == (PING, b""):
                pass
            assert got == (PONG, b"stop")
        with server.raw("/run") as other:  # the time it takes to ping another one three times
            pings(other, 3)
        client.send_frame(TEXT, "not cut")
        assert client.text() == "not cut"


def test_who_does_not_answer_the_pings_of_the_script_is_cut(serve):
    server = serve("""
        app.websocket("/x", function(ws)
          ws.ping_interval = 0.1
          ws:on_close(function(_, code) log.info("over", code) end)
        end)""", ping_interval=0)
    with server.raw("/x") as client:
        assert client.frame() == (PING, b"")
        client.expect_end()
    server.wait_log("over 1006")


BAD_INTERVALS = ["0", "0.09", "-1", "1000001", "math.huge", "0/0", "'x'", "{}", "true", "false"]


@pytest.mark.parametrize("value", BAD_INTERVALS)
def test_a_bad_ping_interval_raises_and_changes_nothing(serve, value):
    server = serve(RUN, ping_interval=20)
    with server.raw("/run") as client:
        answer = ask(client, f"ws.ping_interval = {value}")
        assert answer.startswith("false code:1: "), answer
        assert ask(client, "return ws.ping_interval") == "true 20.0"


@pytest.mark.parametrize("value", ["0.1", "0.3", "1", "1.1", "45.7", "12345.678", "1e6"])
def test_ping_interval_reads_back_as_it_was_set(serve, value):
    server = serve(RUN)
    with server.raw("/run") as client:
        assert ask(client, f"ws.ping_interval = {value} return ws.ping_interval == {value}") == "true true"
        assert ask(client, "ws.ping_interval = nil return ws.ping_interval") == "true nil"


# ---- fields and state ----


def test_params_and_remote_address(serve, tmp_path):
    server = serve("""
        app.websocket("/:room/*/**", function(ws)
          ws:send(table.concat({ws.params.room, ws.params["*"], ws.params["**"], ws.remote_address}, " "))
        end)
        app.websocket("/", function(ws) ws:send(tostring(next(ws.params)) .. " " .. ws.remote_address) end)
        """, "--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path}/socket")
    with server.raw("/caf%C3%A9/b%2Fc/d/e") as client:
        assert client.text() == "café b/c d/e 127.0.0.1"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(f"{tmp_path}/socket")
        assert Raw(sock).upgrade("/").text() == "nil unix:"


FIELDS = """
local fields = {"id", "close_code", "is_closed", "buffered", "ping_interval", "remote_address"}
local gone
local function show(when, ws)
  local all = {}
  for i, name in ipairs(fields) do all[i] = name .. "=" .. tostring(ws[name]) end
  log.info(when, table.concat(all, " "), ws.params and ws.params.x, ws.state.x)
end
app.websocket("/x/:x", function(ws)
  gone = ws
  ws.state.x = "kept"
  show("open:", ws)
  ws:on_text(function(ws) ws:close(3000) show("closing:", ws) end)
  ws:on_close(function(ws) show("on_close:", ws) end)
end)
app.websocket("/later", function()
  show("later:", gone)
  gone.ping_interval = 5
  log.info("set:", gone.ping_interval, pcall(function() gone.ping_interval = 0 end))
end)
"""


def test_fields_before_and_after_the_close(serve):
    server = serve(FIELDS, ping_interval=20)
    with server.raw("/x/p") as client:
        client.send_frame(TEXT, "go")
        client.send_frame(CLOSE, close_payload(3000))
        client.expect_close(3000)
    server.wait_metric("tidewire_websockets", 0)
    server.raw("/later").close()
    live = "ping_interval=20.0 remote_address=127.0.0.1 p kept"
    for line in (rf"open: id=1 close_code=nil is_closed=false buffered=\d+ {live}",
                 rf"closing: id=1 close_code=nil is_closed=true buffered=\d+ {live}",
                 rf"on_close: id=1 close_code=3000 is_closed=true buffered=\d+ {live}",
                 "later: id=1 close_code=3000 is_closed=true buffered=0 ping_interval=nil remote_address=nil nil kept",
                 r"set: nil false .*ws\.ping_interval: 0"):
        server.wait_log(line)


@pytest.mark.parametrize("code", ["ws.params = {}", "ws.id = 1", "ws.mine = 1", "ws.send = print", "ws.on_text = print",
                                  "ws[1] = 2", "return ws.mine", "return ws.on_txt", "return ws[1]", "return ws[{}]"])
def test_other_fields_cannot_be_set_or_read(serve, code):
    server = serve(RUN)
    with server.raw("/run") as client:
        answer = ask(client, code)
        assert answer.startswith("false code:1: "), answer
        if " = " in code:
            assert "cannot be set" in answer and ("ws:on_text(" if "on_text" in code else "ws.state") in answer, answer
        assert ask(client, "return 1") == "true 1"


def test_state_is_one_table_for_each_connection(serve):
    server = serve(RUN + """
        app.websocket("/x", function(ws)
          ws.state.count = 0
          ws:on_text(function(ws, text)
            ws.state.count = ws.state.count + 1
            ws.state.last = text
            ws:send(ws.state.count .. " " .. tostring(ws.state == ws.state))
          end)
          ws:on_close(function(ws) log.info("ended with", ws.state.count, ws.state.last) closed = ws end)
        end)""")
    with server.raw("/run") as other, server.raw("/x") as one, server.raw("/x") as two:
        for i in "123":
            one.send_frame(TEXT, "one " + i)
            assert one.text() == i + " true"
        two.send_frame(TEXT, "two")
        assert two.text() == "1 true"
        two.close()
        server.wait_log("ended with 1 two")
        assert ask(other, "return closed.state.last") == "true two"
        one.send_frame(TEXT, "more")
        assert one.text() == "4 true"
        one.close()
        server.wait_log("ended with 4 more")
        assert ask(other, "closed.state.later = 7 return closed.state.later, closed.state.last") == "true 7 more"


def test_state_can_be_made_after_the_close(serve):
    server = serve(RUN + 'app.websocket("/x", function(ws) closed = ws end)')
    with server.raw("/run") as other:
        server.raw("/x").close()
        server.wait_metric("tidewire_websockets", 1)
        assert ask(other, "closed.state.x = 1 return closed.state.x, next(ws.state)") == "true 1 nil"


# ---- by connection id ----

SEND, CLOSE_IT = "app.send({}, 'x')", "app.close({})"


@pytest.mark.parametrize("call", [SEND, CLOSE_IT])
@pytest.mark.parametrize("number", ["0", "-1", "1000", "1 << 62", "math.mininteger", "math.maxinteger", "7.0"])
def test_an_unknown_id_on_the_own_worker_is_closed(serve, call, number):
    server = serve(RUN)
    with server.raw("/run") as client:
        assert ask(client, "return " + call.format(number)) == "true nil closed"


@pytest.mark.parametrize("call", [SEND, CLOSE_IT])
@pytest.mark.parametrize("how", ["closing", "ended"])
def test_the_id_of_a_closed_connection_is_closed(serve, call, how):
    server = serve(RUN)
    with server.raw("/run") as client, server.raw("/run") as other:
        number = ask(other, "return ws.id").split()[1]
        if how == "closing":
            other.send_frame(TEXT, "ws:close()")
            assert other.frame()[0] == CLOSE
        else:
            other.close()
            server.wait_metric("tidewire_websockets", 1)
        assert ask(client, "return " + call.format(number)) == "true nil closed"
        assert ask(client, "return " + call.format("ws.id + 1000")) == "true nil closed"


@pytest.mark.parametrize("call", [SEND, CLOSE_IT])
def test_in_on_close_the_own_id_is_closed(serve, call):
    server = serve(f"""app.websocket("/x", function(ws)
        ws:on_close(function() log.info({call.format("ws.id")}) end)
    end)""")
    server.raw("/x").close()
    server.wait_log("nil closed")


def test_app_send_reaches_every_connection_of_every_worker(serve):
    server = serve(RUN, workers=3)
    clients = spread(server, 3)
    assert len({number for _, number, _ in clients}) == len(clients)
    for sender, own, _ in clients[:4]:
        for _, number, _ in clients:
            if number != own:
                assert ask(sender, f"return app.send({number}, 'from {own}')") == "true true"
        assert ask(sender, f"return app.send({own}, 'to myself')") == "to myself"
        assert sender.text() == "true true"
        for client, number, _ in clients:
            if number != own:
                assert client.text() == f"from {own}"
    for client, _, _ in clients:
        client.close()


@pytest.mark.parametrize("same", [True, False], ids=["same worker", "other worker"])
def test_one_senders_messages_and_its_close_keep_their_order(serve, same):
    server = serve(RUN, workers=2)
    (sender, _, _), (receiver, number, _) = pair(spread(server, 2), same)
    assert ask(sender, f"""
        for i = 1, 500 do assert(app.send({number}, tostring(i), {{binary = i % 3 == 0}})) end
        return app.close({number}, 4000, "done"), app.send({number}, "late")
        """) == ("true true nil closed" if same else "true true true")
    for i in range(1, 501):
        assert receiver.frame() == (BINARY_OP if i % 3 == 0 else TEXT, str(i).encode())
    assert receiver.frame() == (CLOSE, close_payload(4000, b"done"))


@pytest.mark.parametrize("same", [True, False], ids=["same worker", "other worker"])
@pytest.mark.parametrize("data", ["''", "'x'", "('x'):rep(65536)", "('x'):rep(1 << 21)", "12", "'\\0caf\\xc3\\xa9'"])
def test_app_send_takes_data_of_any_size(serve, same, data):
    server = serve(RUN, workers=2)
    (sender, _, _), (receiver, number, _) = pair(spread(server, 2), same)
    expected = {"''": b"", "'x'": b"x", "12": b"12", "'\\0caf\\xc3\\xa9'": b"\0caf\xc3\xa9",
                "('x'):rep(65536)": b"x" * 65536, "('x'):rep(1 << 21)": b"x" * (1 << 21)}[data]
    assert ask(sender, f"return app.send({number}, {data})") == "true true"
    assert receiver.frame() == (TEXT, expected)
    assert ask(sender, f"return app.send({number}, {data}, {{binary = true}})") == "true true"
    assert receiver.frame() == (BINARY_OP, expected)


@pytest.mark.parametrize("same", [True, False], ids=["same worker", "other worker"])
def test_text_that_is_not_utf8_is_refused_and_binary_is_not(serve, same):
    server = serve(RUN, workers=2)
    (sender, _, _), (receiver, number, _) = pair(spread(server, 2), same)
    for options in ("", ", nil", ", {}", ", {binary = false}", ", {binary = nil}"):
        assert ask(sender, f"return app.send({number}, 'a\\xff'{options})") == "true nil not UTF-8"
    assert ask(sender, f"return app.send({number}, 'a\\xff', {{binary = true}})") == "true true"
    assert receiver.frame() == (BINARY_OP, b"a\xff")
    assert ask(sender, f"return app.close({number}, 1000, '\\xff')").startswith("false code:1: app.close: the reason")
    assert ask(receiver, "return 'open'") == "true open"


BAD_CALLS = ["app.send()", "app.send(1)", "app.send('x', 'y')", "app.send(1.5, 'y')", "app.send(nil, 'y')",
             "app.send(ws, 'y')", "app.send(1, {'x'})", "app.send(1, 'x', {bianry = true})", "app.send(1, nil)", "app.send(1, true)", "app.send(1, 'x', true)",
             "app.send(1, 'x', 'binary')", "app:send(1, 'x')", "app.close()", "app.close('x')", "app.close(ws)",
             "app:close(1)", "app.close(1, 'x')", "app.close(1, 1000, {})", "app.close(1, 1000, ('x'):rep(124))"]
BAD_CODES = [0, 1, 999, 1004, 1005, 1006, 1010, 1014, 1015, 2000, 2999, 5000, 65536, -1]


@pytest.mark.parametrize("code", BAD_CALLS + [f"app.close(ws.id, {n})" for n in BAD_CODES])
def test_misuse_raises_at_the_scripts_line(serve, code):  # RFC 6455, 7.4, for the codes
    server = serve(RUN)
    with server.raw("/run") as client:
        assert ask(client, code).startswith("false code:1: "), code
        assert ask(client, "return 'open'") == "true open"


@pytest.mark.parametrize("arguments, code, reason", [
    ("", 1000, ""), (", nil", 1000, ""), (", 1001", 1001, ""), (", 1013, 'later'", 1013, "later"),
    (", 4999, ('é'):rep(61)", 4999, "é" * 61), (", nil, 'why'", 1000, "why")])
@pytest.mark.parametrize("same", [True, False], ids=["same worker", "other worker"])
def test_app_close_begins_the_close_handshake(serve, arguments, code, reason, same):
    server = serve(RUN, workers=2)
    clients = spread(server, 2)
    (sender, _, _), (receiver, number, _) = pair(clients, same)
    ask(receiver, "ws:on_close(function(_, ...) log.info('over', ...) end)")
    assert ask(sender, f"return app.close({number}{arguments})") == "true true"
    assert ask(sender, f"return app.close({number}{arguments})") == ("true nil closed" if same else "true true")
    assert receiver.frame() == (CLOSE, close_payload(code, reason.encode()))
    receiver.send_frame(CLOSE, close_payload(code, b"bye"))
    receiver.expect_end()
    server.wait_log(f"over {code} bye")
    server.wait_metric("tidewire_websockets", len(clients) - 1)
    assert server.log.count("over") == 1


def test_for_another_workers_connection_true_means_handed_over(serve):
    server = serve(RUN, workers=2)
    clients = spread(server, 2)
    (sender, _, _), (gone, number, _) = pair(clients, same=False)
    gone.close()
    server.wait_metric("tidewire_websockets", len(clients) - 1)
    for target in (number, number + 2000, -1 if number % 2 == 1 else -2):
        for call in (SEND, CLOSE_IT):
            assert ask(sender, "return " + call.format(target)) == "true true"
    for client, own, _ in clients:
        if own != number:
            assert ask(client, "return 'alive'") == "true alive"


def test_a_slow_receiver_on_the_own_worker_is_told_and_closed_with_1013(serve):
    server = serve(RUN)
    with server.raw("/run") as sender, slow_client(server, "/run") as slow:
        number = ask(slow, "return ws.id").split()[1]
        code = f"return app.send({number}, ('x'):rep({BIG})), app.send({number}, ('y'):rep({BIG}))"
        assert ask(sender, code) == "true true nil queue full"
        read_big(slow)
        slow.expect_close(1013)
        assert ask(sender, f"return app.send({number}, 'x')") == "true nil closed"


@pytest.mark.parametrize("size, fit", [(1 << 20, 64), (60 << 20, 1), (65 << 20, 1), (100 << 20, 1)])
def test_what_waits_for_another_worker_is_limited(serve, tmp_path, size, fit):
    server = serve(RUN, workers=2, handler_budget=60)
    (sender, _, _), (holder, number, _) = pair(spread(server, 2), same=False)
    go_on = tmp_path / "go on"
    holder.send_frame(TEXT, f"log.info('held') while not io.open({str(go_on)!r}) do end return 'free'")
    server.wait_log("held")
    sender.send_frame(TEXT, f"local big = ('x'):rep({size}) for _ = 1, {fit} do app.send({number + 2000}, big) end "
                            f"return app.send({number + 2000}, big)")
    answer = sender.text()
    go_on.touch()
    assert answer == "true nil queue full"
    assert holder.text() == "true free"
    assert ask(sender, f"repeat until app.send({number}, 'again')") == "true"
    assert holder.text() == "again"


LOADING = {
    "main chunk": ("app.{0}(1, {1})", 1),
    "coroutine": ("local f = coroutine.wrap(function()\n  app.{0}(1, {1})\nend)\nf()", 2),
    "under a valid route": ("app.websocket('/x', function() end)\napp.{0}(1, {1})", 2),
}


@pytest.mark.parametrize("where", LOADING)
@pytest.mark.parametrize("call", ["send", "close"])
def test_while_a_script_loads_they_raise(tmp_path, where, call):
    text, line = LOADING[where]
    script = tmp_path / "main.lua"
    script.write_text(text.format(call, "'x'" if call == "send" else "1000"))
    done = run("check", script)
    assert done.returncode == 1
    assert f"main.lua:{line}: app.{call} cannot be called while the script loads" in done.stderr, done.stderr


def test_new_code_reaches_connections_of_the_old_and_the_other_way_round(serve):
    server = serve(RUN)
    with server.raw("/run") as old:
        old_id = ask(old, "return ws.id").split()[1]
        old.send_frame(TEXT, "log.info('stays') local to repeat app.sleep(0) to = app.shared.get('to') until to "
                             "return app.generation, app.send(to, 'up'), app.close(to, 3001)")
        server.wait_log("stays")
        assert server.reload()
        with server.raw("/run") as new:
            new_id = ask(new, "return ws.id").split()[1]
            assert ask(new, f"return app.send({old_id}, 'down')") == "true true"
            assert old.text() == "down"
            assert ask(new, f"app.shared.set('to', {new_id})") == "true"
            assert old.text() == "true 1 true true"
            assert new.text() == "up"
            assert new.frame() == (CLOSE, close_payload(3001))
        assert ask(old, "return app.generation, ws.id") == f"true 2 {old_id}"


def test_letters_under_way_do_not_hinder_the_end(serve):
    server = serve(RUN, workers=2)
    clients = spread(server, 2)
    (sender, _, _), (receiver, far, _) = pair(clients, same=False)
    assert ask(sender, f"for i = 1, 10000 do app.send({far}, 'x') end return 'sent'") == "true sent"
    server.send_signal(signal.SIGTERM)
    assert receiver.text() == "x"
    for client, _, _ in clients:
        client.close()
    assert server.stop(None) == 0
