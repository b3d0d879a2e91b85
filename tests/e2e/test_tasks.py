# SPDX-License-Identifier: MIT
"""Handlers that wait, and what runs without a message: app.sleep, app.spawn, app.after, app.every; order, read-ahead
and cancellation."""
import re
import signal
import socket
import struct
import threading
import time

import pytest

from conftest import BINARY_OP, CLOSE, CONT, PATIENCE, PING, PONG, TEXT, close_payload, frame, not_under_tsan, run

# A client of /run sends Lua code, in which `ws` is its own WebSocket, and is told what became of it: "true" and the
# results, or "false" and the error. Code that passes a gate waits until other code opens it.
RUN = """
kept, gates = {}, {}
local function gate(name)
  gates[name] = gates[name] or app.promise()
  return gates[name]
end
function pass(name) return gate(name):await() end
function open(name, value) return gate(name):resolve(value) end
function nap()  -- every way to wait; meanwhile what is still needed must not be collected
  app.spawn(collectgarbage)
  app.sleep(0)
  local p = app.promise()
  app.after(0.001, function() p:resolve() end)
  p:await()
  app.sleep(0.001)
end
function closing(name, f)
  return setmetatable({}, {__close = function(_, e) if f then f() end log.info("closed", name, e) end})
end
function stay(name) local x <close> = closing(name) pass("never") end
function note(name) kept[name] = (kept[name] or 0) + 1 end
function loop() while true do end end
wrap, create, resume, yield = coroutine.wrap, coroutine.create, coroutine.resume, coroutine.yield
app.websocket("/run", function(ws)
  ws:on_text(function(ws, code)
    local results = table.pack(pcall(assert(load("local ws = ...; " .. code, "=code")), ws))
    for i = 1, results.n do results[i] = tostring(results[i]) end
    ws:send(table.concat(results, " "))
  end)
  ws:on_close(function(ws, code) log.info("on_close", code) end)
end)
"""

# Each message waits at the gate x.
GATED = RUN + """
app.websocket("/x", {ping_interval = PING_INTERVAL}, function(ws)
  kept.ws = ws
  local function handle(ws, text)
    local word = text:match("^%w*")
    log.info("begins", word)
    local x <close> = closing(word)
    pass("x")
    ws:send(word)
  end
  ws:on_text(handle)
  ws:on_binary(handle)
  ws:on_close(function(_, code, reason) log.info("gone", code, reason) end)
end)
"""

ERRORS, CUT = 'tidewire_handler_errors_total{reason="error"}', 'tidewire_handler_errors_total{reason="budget"}'


def ask(client, code):
    client.send_frame(TEXT, code)
    return client.text()


def begins_to_wait(server, client, code, tasks=1):
    """Sends code whose handler waits; returns when it does, and `tasks` of them wait in all."""
    client.send_frame(TEXT, code)
    server.wait_metric("tidewire_tasks", tasks)


def whole_log(server):
    """Stops the server; what it has logged by then."""
    assert server.stop() == server.expected_exit
    return server.log


def message(text):
    """A big frame, made fast."""
    return frame(TEXT, length=len(text), mask=b"\0\0\0\0") + text.encode()


def vanish(client, how):
    if how == "reset":
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "Close":
        client.send_frame(CLOSE, close_payload(1000))
    client.close()


# ---- where a handler may wait ----

OVER = "function() nap() log.info('over') end"
PLACES = {
    "the route function": "nap() log.info('over')",
    "on_text": f"ws:on_text({OVER})",
    "on_binary": f"ws:on_binary({OVER})",
    "on_ping": f"ws:on_ping({OVER})",
    "on_pong": f"ws:on_pong({OVER})",
    "on_drain": f"ws:on_drain({OVER}) ws:on_text(function() ws:send(('x'):rep(1000)) end)",
    "on_close": f"ws:on_close({OVER})",
    "app.spawn": f"app.spawn({OVER})",
    "app.after": f"app.after(0, {OVER})",
    "app.every": "local t t = app.every(0.001, function() t:cancel() nap() log.info('over') end)",
    "when_complete": f"local p = app.promise() p:when_complete({OVER}) p:resolve()",
    "the done of a send": f"ws:send('x', {OVER})",
    "the done of a close": f"ws:on_text(function() ws:close({OVER}) end)",
    "a closing method": f"ws:on_text(function() local x <close> = closing('x', {OVER}) end)",
}


@pytest.mark.parametrize("place", PLACES)
def test_it_may_wait_in(serve, place):
    server = serve(RUN + f"app.websocket('/x', function(ws) {PLACES[place]} end)", send_limit=100)
    with server.raw("/x") as client:
        client.send(b"".join(frame(opcode, "x") for opcode in (TEXT, BINARY_OP, PING, PONG)))
        if place == "on_close":
            client.close()
        server.wait_log(r"over")
        server.wait_metric("tidewire_tasks", 0)
    server.wait_metric("tidewire_websockets", 0)
    assert server.metrics()["tidewire_timers"] == server.metrics()["tidewire_tasks_cancelled_total"] == 0
    assert server.metrics()[ERRORS] == 0 and whole_log(server).count("over") == 1


def meta(event, use):
    return f"local t = setmetatable({{}}, {{{event} = function() nap() return 7 end}}) return {use}"


FAILING = "function() nap() error('x', 0) end"
WITHIN = {
    "a tail call": ("return app.sleep(0)", ""),
    "a loop": ("for i = 1, 500 do app.sleep(0) end return 'fine'", "fine"),
    "varargs": ("return (function(...) nap() return select('#', ...), ... end)(nil, 1, nil)", "3 nil 1 nil"),
    "a deep recursion": (
        "local function f(n) if n == 0 then nap() return 0 end return 1 + f(n - 1) end return f(5000)", "5000"),
    "a loaded chunk": ("return load('nap() return 7')()", "7"),
    "pcall": ("return pcall(function(...) nap() return ... end, 1, nil, 3)", "true 1 nil 3"),
    "pcall of sleep": ("return pcall(app.sleep, 0)", "true"),
    "a failing pcall": (f"return pcall({FAILING})", "false x"),
    "three pcalls": (f"return pcall(pcall, pcall, {FAILING})", "true true false x"),
    "a pcall with an error object": (
        "local e = {} local ok, got = pcall(function() nap() error(e) end) return ok, got == e", "false true"),
    "xpcall": ("return xpcall(function(...) nap() return ... end, print, 1, nil)", "true 1 nil"),
    "a failing xpcall": (f"return xpcall({FAILING}, function(e) return 'got ' .. e end)", "false got x"),
    "wrap": ("local f = wrap(function(a) nap() local b = yield(a + 1) nap() return b * 2, nil end) return f(1), f(5)",
             "2 10 nil"),
    "a failing wrap": ("return pcall(wrap(function() nap() error(7) end))", "false 7"),
    "resume": ("return resume(create(function(a, b) nap() return b, a end), 1, nil)", "true nil 1"),
    "a failing resume": (f"return resume(create({FAILING}))", "false x"),
    "pcall in wrap in pcall": ("return pcall(wrap(function() return pcall(wrap(function() nap() yield(7) end)) end))",
                               "true true 7"),
    "three coroutines": (
        "local function f(n) if n == 0 then nap() return 0 end return n + wrap(f)(n - 1) end return f(3)", "6"),
    "fifty coroutines": ("local function f(n) if n == 0 then nap() return 0 end "
                         "return 1 + select(2, resume(create(f), n - 1)) end return f(50)", "50"),
    "an iterator": ("local n = 0 for i in function(_, i) nap() if i < 3 then return i + 1 end end, nil, 0 do "
                    "n = n + i end return n", "6"),
    "a coroutine as iterator": ("local n = 0 for i in wrap(function() for i = 1, 3 do nap() yield(i) end end) do "
                                "nap() n = n + i end return n", "6"),
    "__pairs": ("local t = setmetatable({}, {__pairs = function() nap() return next, {7} end}) for k in pairs(t) do "
                "return k end", "1"),
    "__index": (meta("__index", "t.x"), "7"),
    "__newindex": ("local t = setmetatable({}, {__newindex = function(...) nap() rawset(...) end}) t.x = 7 return t.x",
                   "7"),
    "__call": (meta("__call", "t()"), "7"),
    "__add": (meta("__add", "1 + t"), "7"),
    "__concat": (meta("__concat", "'x' .. t .. 'y'"), "x7"),
    "__len": (meta("__len", "#t"), "7"),
    "__lt": (meta("__lt", "t < 1, t > 1"), "true true"),
    "__eq": (meta("__eq", "t == {}, t ~= {}"), "true false"),
    "__close": ("local s = '' local function f(n) return closing('x', function() nap() s = s .. n end) end "
                "do local a <close> = f('a') local b <close> = f('b') nap() end return s", "ba"),
    "__close after an error": ("return pcall(function() local x <close> = setmetatable({}, {__close = function(_, e) "
                               "nap() error(e .. '!', 0) end}) nap() error('x', 0) end)", "false x!"),
}


@pytest.mark.parametrize("construct", WITHIN)
def test_it_may_wait_within(serve, construct):
    code, answer = WITHIN[construct]
    server = serve(RUN)
    with server.raw("/run") as client, server.raw("/run") as other:
        for each in (client, other):
            each.send_frame(TEXT, code)
        assert (client.text(), other.text()) == (f"true {answer}".strip(),) * 2
        assert server.metrics()["tidewire_tasks"] == server.metrics()[ERRORS] == 0


NOT_WITHIN = {
    "table.sort": "table.sort({3, 1, 2}, function() %s end)",
    "string.gsub": "string.gsub('x', '.', function() %s end)",
    "load": "assert(load(function() %s end))",
    "require": "package.preload.m = function() %s end require('m')",
    "__tostring": "tostring(setmetatable({}, {__tostring = function() %s end}))",
    "__newindex of table.insert": "table.insert(setmetatable({}, {__newindex = function() %s end}), 1)",
    "a message handler": "local _, e = xpcall(error, function() local _, e = pcall(function() %s end) return e end) "
                         "error(e, 0)",
    "a coroutine in table.sort": "table.sort({2, 1}, wrap(function() %s end))",
    "an older coroutine in table.sort": "local f = wrap(function() yield() %s end) f() table.sort({2, 1}, f)",
    "two coroutines in string.gsub": "('x'):gsub('.', function() wrap(function() wrap(function() %s end)() end)() end)",
    "string.gsub in a coroutine": "wrap(function() ('x'):gsub('.', function() %s end) end)()",
    "coroutine.close": "local c = create(function() local x <close> = closing('x', function() %s end) yield() end) "
                       "resume(c) local _, e = coroutine.close(c) error(e, 0)",
}


@pytest.mark.parametrize("what, call", [("app.sleep", "app.sleep(0)"), ("promise:await", "app.promise():await()")])
@pytest.mark.parametrize("construct", NOT_WITHIN)
def test_an_error_says_that_it_cannot_wait_within(serve, construct, what, call):
    server = serve(RUN)
    with server.raw("/run") as client:
        answer = ask(client, NOT_WITHIN[construct] % call)
        assert re.match(rf"false (code:1: )+{what}: cannot wait here: .*table\.sort", answer), answer
        assert ask(client, "nap() return 'alive'") == "true alive"
        assert server.metrics()["tidewire_tasks"] == 0


LOADING = {
    "app.sleep(0)": "app.sleep", "app.promise():await()": "promise:await", "pcall(app.sleep, 0) error('fine')": "fine",
    "coroutine.wrap(function() app.sleep(0) end)()": "app.sleep",
    "local p = app.promise() p:resolve() p:await() error('fine')": "fine",
}


@pytest.mark.parametrize("code", LOADING)
def test_nothing_waits_while_the_script_loads(tmp_path, code):
    script = tmp_path / "main.lua"
    script.write_text(code, encoding="utf-8")
    checked = run("check", script)
    message = LOADING[code] if LOADING[code] == "fine" else LOADING[code] + ": nothing can wait while the script loads"
    assert checked.returncode == 1 and f"main.lua:1: {message}" in checked.stderr + checked.stdout


# ---- the script's own coroutines ----


def test_a_coroutine_in_which_something_waits_is_normal_and_cannot_be_resumed_or_closed_by_others(serve):
    server = serve(RUN)
    with server.raw("/run") as client, server.raw("/run") as other:
        begins_to_wait(server, client, """
            kept.wrapped = wrap(function() local x <close> = closing("inner") return pass("x") end)
            kept.co = create(function() return "end", kept.wrapped() end)
            return resume(kept.co)""")
        for _ in range(2):
            assert ask(other, "return coroutine.status(kept.co)") == "true normal"
            assert ask(other, "return coroutine.isyieldable(kept.co)") == "true true"
            assert "cannot resume a coroutine that waits" in ask(other, "return resume(kept.co)")
            assert "cannot resume a coroutine that waits" in ask(other, "return kept.wrapped()")
            assert ask(other, "return coroutine.close(kept.co)").endswith("cannot close a normal coroutine")
            assert ask(other, "return type(debug.traceback(kept.co))") == "true string"
        assert ask(other, "return open('x', 7)") == "true true"
        assert client.text() == "true true end 7"
        assert ask(other, "return coroutine.status(kept.co), coroutine.close(kept.co)") == "true dead true"
        assert server.metrics()[ERRORS] == 0


def test_a_coroutine_begun_by_one_handler_waits_for_the_one_that_resumed_it(serve):
    server = serve(RUN)
    with server.raw("/run") as first, server.raw("/run") as second:
        code = "kept.co = create(function(a) local b = yield(a) local c = pass('x') return yield(b + c) end)"
        assert ask(first, code + " return resume(kept.co, 1)") == "true true 1"
        begins_to_wait(server, second, "return resume(kept.co, 10)")
        assert ask(first, "open('x', 5) return coroutine.status(kept.co)") == "true normal"
        assert second.text() == "true true 15"
        assert ask(first, "return coroutine.status(kept.co), resume(kept.co, 'z')") == "true suspended true z"


def test_what_coroutine_tells_is_the_same_before_and_after_a_wait(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        code = "local function f() return %s end local a = f() nap() local b = f() return a == b, a"
        assert ask(client, code % "coroutine.running()").startswith("true true thread: ")
        assert ask(client, code % "coroutine.isyieldable()") == "true true false"
        assert ask(client, f"return wrap(function() {code % 'coroutine.isyieldable()'} end)()") == "true true true"
        assert ask(client, "nap() return coroutine.yield()").endswith("attempt to yield from outside a coroutine")
        assert ask(client, "nap() return resume((coroutine.running()))").startswith("true false cannot resume")


# ---- order ----


@pytest.mark.parametrize("read_ahead", [0, 100, "64k"])
def test_messages_are_handled_one_by_one_in_order_however_long_each_waits(serve, read_ahead):
    server = serve(RUN + """
        app.websocket("/x", function(ws)
          local busy
          local function handle(ws, text)
            assert(not busy, "two at once")
            busy = true
            local n = tonumber(text:match("%d+")) * 7919 % 5
            for _ = 1, n do app.sleep(n == 4 and 0.001 or 0) end
            if n == 3 then nap() end
            busy = false
            ws:send(text:match("%d+"))
          end
          ws:on_text(handle)
          ws:on_binary(handle)
        end)""", read_ahead=read_ahead)
    with server.raw("/x") as client:
        for i in range(200):
            text = f"{i} {'x' * (i * 37 % 300)}"
            parts = frame(TEXT, text[:1], fin=False) + frame(CONT, fin=False) + frame(PING, "p") + frame(CONT, text[1:])
            client.send([frame(BINARY_OP, text), frame(TEXT, text), parts][i % 3])
        got = [client.frame() for _ in range(200 + 66)]
    assert [payload for opcode, payload in got if opcode == TEXT] == [b"%d" % i for i in range(200)]
    assert got.count((PONG, b"p")) == 66


def gated(serve, ping_interval=30, **options):
    return serve(GATED.replace("PING_INTERVAL", str(ping_interval)), **options)


def test_while_one_waits_others_and_control_frames_do_not(serve):
    server = gated(serve)
    with server.raw("/x") as client, server.raw("/run") as other:
        client.send(frame(TEXT, "a") + frame(PING, "1") + frame(BINARY_OP, "b") + frame(TEXT, "c", fin=False))
        assert client.frame() == (PONG, b"1")
        client.send(frame(PING, "2") + frame(CONT, "c") + frame(PING, "3"))
        assert [client.frame() for _ in range(2)] == [(PONG, b"2"), (PONG, b"3")]
        assert ask(other, "return 'at once'") == "true at once"
        assert ask(other, "return open('x')") == "true true"
        assert [client.text() for _ in "abc"] == ["a", "b", "cc"]
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
        server.wait_log("gone 1000")
        assert server.metrics()["tidewire_reassembly_bytes"] == server.metrics()["tidewire_tasks_cancelled_total"] == 0
    steps = re.findall(r"(begins|closed) (\w+)", whole_log(server))
    assert steps == [(step, word) for word in ("a", "b", "cc") for step in ("begins", "closed")]


def test_messages_wait_for_the_route_function(serve):
    server = serve(RUN + """app.websocket("/x", function(ws)
        ws:on_text(function() error("wrong") end)
        pass("x")
        ws:on_text(function(ws, text) ws:send(text) end)
      end)""")
    with server.raw("/x") as client, server.raw("/run") as other:
        client.send(frame(TEXT, "a") + frame(PING) + frame(TEXT, "b"))
        assert client.frame() == (PONG, b"")
        ask(other, "open('x')")
        assert [client.text(), client.text()] == ["a", "b"]


def test_handlers_of_control_frames_run_while_another_waits_and_messages_wait_for_them(serve):
    server = serve(RUN + """app.websocket("/x", function(ws)
        ws:on_text(function(ws, text) pass("text") ws:send(text) end)
        ws:on_ping(function(ws, payload) pass("ping") ws:send(payload) end)
      end)""")
    with server.raw("/x") as client, server.raw("/run") as other:
        client.send(frame(TEXT, "a") + frame(PING, "p") + frame(TEXT, "b"))
        assert client.frame() == (PONG, b"p")
        server.wait_metric("tidewire_tasks", 2)
        ask(other, "open('text')")
        assert client.text() == "a"
        assert server.metrics()["tidewire_tasks"] == 1
        ask(other, "open('ping')")
        assert [client.text(), client.text()] == ["p", "b"]


def test_a_close_from_the_peer_is_answered_at_once_and_cancels(serve):
    server = gated(serve)
    with server.raw("/x") as client:
        client.send(frame(TEXT, "a") + frame(TEXT, "b") + frame(CLOSE, close_payload(3001, b"bye")) + frame(TEXT, "c"))
        client.expect_close(3001)
    server.wait_log(r"closed a nil\n.*gone 3001 bye")
    assert re.findall(r"begins (\w)", server.log) == ["a"]
    server.wait_metric("tidewire_tasks", 0)
    assert server.metrics()["tidewire_tasks_cancelled_total"] == 1 and server.metrics()[ERRORS] == 0


@pytest.mark.parametrize("waiting", ["little", "more than read_ahead"])
@pytest.mark.parametrize("close", ["kept.ws:close(3000, 'enough')", "app.close(kept.ws.id, 3000, 'enough')",
                                   "app.after(0, function() kept.ws:close(3000, 'enough') end)"])
def test_a_waiting_handlers_connection_can_be_closed_by_others(serve, close, waiting):
    server = gated(serve, read_ahead=1000, close_timeout=3600)
    with server.raw("/x") as client, server.raw("/run") as other:
        client.send(frame(TEXT, "a") + frame(TEXT, "b") + message("c " + "x" * (10 if waiting == "little" else 100000)))
        server.wait_metric("tidewire_tasks", 1)
        ask(other, close)
        assert client.frame() == (CLOSE, close_payload(3000, b"enough"))
        client.send(frame(TEXT, "d") + frame(CLOSE, close_payload(3000)))
        client.expect_end()
        server.wait_log(r"closed a nil\n.*gone 3000")
        assert re.findall(r"begins (\w)", server.log) == ["a"]
        assert server.metrics()["tidewire_reassembly_bytes"] == 0


def test_a_handler_that_closes_may_wait_for_the_end_and_is_cancelled_by_it(serve):
    server = serve(RUN, close_timeout=0.2)
    with server.raw("/run") as client:
        client.send_frame(TEXT, "local x <close> = closing('x') ws:close() pass('never')")
        assert client.frame() == (CLOSE, close_payload(1000))
        server.wait_log(r"closed x nil\n.*on_close 1006")


# ---- read-ahead ----


def paused(server, client=None):
    """Waits until a gated server with a read_ahead of 1000 has stopped to read from a client, which first sends what
    it takes for that."""
    if client is not None:
        client.send(frame(TEXT, "a") + frame(TEXT, "b " + "x" * 2000))
    deadline = time.monotonic() + PATIENCE
    while server.metrics()["tidewire_reassembly_bytes"] < 1000:
        assert time.monotonic() < deadline


def test_memory_for_messages_that_wait_is_bounded_by_read_ahead_and_none_is_lost(serve):
    server = gated(serve, read_ahead=1000)
    sent = b"".join(message(f"{i} {'x' * 4000}") for i in range(1000))
    with server.raw("/x") as client, server.raw("/run") as other:
        sender = threading.Thread(target=client.send, args=(sent,))
        sender.start()
        paused(server)
        most, received = 0, -1
        while received != (received := server.metrics()["tidewire_received_bytes_total"]):
            most = max(most, server.metrics()["tidewire_reassembly_bytes"])
        assert 1000 <= most < 600000 and received < len(sent) // 2
        ask(other, "pass = function() app.sleep(0) end return open('x')")
        for i in range(1000):
            assert client.text() == str(i)
            if i % 100 == 0:
                assert server.metrics()["tidewire_reassembly_bytes"] < 600000
        sender.join()
        server.wait_metric("tidewire_reassembly_bytes", 0)


def test_the_ping_clock_stands_still_while_reading_is_paused(serve):
    server = gated(serve, ping_interval=0.2, read_ahead=1000)
    with server.raw("/x") as client, server.raw("/x") as neighbour, server.raw("/run") as other:
        paused(server, client)
        for _ in range(4):  # in the time of these the client would have been cut
            assert neighbour.frame() == (PING, b"")
            neighbour.send_frame(PONG)
        assert server.metrics()["tidewire_websockets"] == 3
        ask(other, "open('x')")
        got = []
        while got[-1:] != [(PING, b"")] or (TEXT, b"b") not in got:  # and pings go on
            got.append(client.frame())
        assert [payload for opcode, payload in got if opcode == TEXT] == [b"a", b"b"]
        assert server.metrics()["tidewire_ping_timeouts_total"] == 0


@pytest.mark.parametrize("how", ["close", "reset", "Close"])
@pytest.mark.parametrize("reading", ["paused", "not paused"])
def test_a_waiting_handler_is_cancelled_when_its_client_vanishes(serve, reading, how):
    server = gated(serve, read_ahead=1000)
    with server.raw("/x") as client, server.raw("/run") as other:
        if reading == "paused":
            paused(server, client)  # a probe has to find out
        else:
            begins_to_wait(server, client, "a")
        vanish(client, how)
        server.wait_log(r"closed a nil\n.*gone " + ("1000" if (reading, how) == ("not paused", "Close") else "1006"))
        assert ask(other, "return open('x')") == "true true"
        server.wait_metric("tidewire_websockets", 1)
        metrics = server.metrics()
    assert metrics["tidewire_tasks"] == metrics["tidewire_reassembly_bytes"] == 0
    assert metrics["tidewire_tasks_cancelled_total"] == 1 and whole_log(server).count("begins") == 1


# ---- errors ----


@pytest.mark.parametrize("code, message", [
    ("error('boom')", r"main\.lua:3: boom"), ("local x = nil + 1", r"main\.lua:3: attempt to perform arithmetic"),
    ("error(setmetatable({}, {__tostring = function() return 'mine' end}))", "mine"), ("loop()", "cut: it ran longer"),
    ("wrap(function() nap() error('boom') end)()", r"main\.lua:3: boom"),
    ("pcall(function() nap() loop() end)", "cut: "), ("wrap(function() nap() loop() end)()", "cut: "),
    ("wrap(function() nap() pcall(loop) end)()", "cut: "),
])
def test_an_error_after_a_wait_is_logged_with_its_place_and_closes_with_1011(serve, code, message):
    server = serve(f"""app.websocket("/x", function(ws)
        ws:on_text(function(ws)
          nap() {code}
          log.info("wrong")
        end)
      end)""" + RUN, handler_budget=0.2)
    with server.raw("/x") as client, server.raw("/run") as other:
        client.send(frame(TEXT, "a") + frame(TEXT, "b"))
        client.expect_close(1011)
        server.wait_log(rf"error \[worker 1, connection \d+, /x\] .*{message}.*\n    stack traceback:(\n    .*)*\n"
                        r"\s+\S*main\.lua:[34]: in function <\S*main\.lua:2>")
        assert ask(other, "nap() return wrap(function() nap() return 7 end)()") == "true 7"
        assert server.metrics()[CUT if "loop" in code else ERRORS] == 1
    assert "wrong" not in whole_log(server)


@pytest.mark.parametrize("wait", ["", "nap() "])
@pytest.mark.parametrize("run_it", ["app.spawn(F)", "app.after(0, F)", "app.every(0.001, F)"])
@pytest.mark.parametrize("code", ["error('boom')", "loop()"])
def test_an_error_without_a_message_is_logged_and_costs_nobody_anything(serve, run_it, wait, code):
    server = serve(RUN, handler_budget=0.1)
    with server.raw("/run") as client:
        f = "function() note('f') log.info('runs', kept.f) if kept.f <= 2 then " + wait + code + " end end"
        assert ask(client, run_it.replace("F", f)) == "true"
        times = 2 if "every" in run_it else 1
        line = r"error \[worker 1, connection \d+, /run\] .*" + ("boom" if "boom" in code else "cut: ")
        server.wait_log(rf"({line}[\s\S]*){{{times}}}")
        if "every" in run_it:
            server.wait_log("runs 4")  # it goes on
        assert ask(client, "nap() return 'alive'") == "true alive"
        assert server.metrics()[ERRORS if "boom" in code else CUT] == times


@pytest.mark.parametrize("what, code", [
    ("app.sleep", "app.sleep(0)"), ("promise:await", "app.promise():await()"), ("app.spawn", "app.spawn(print)"),
    ("app.after", "return app.after(1000, print):cancel()"), ("app.every", "return app.every(1, print):cancel()")])
def test_beyond_max_tasks_an_error_names_it(serve, what, code):
    server = serve(RUN, max_tasks=2)
    with server.raw("/run") as first, server.raw("/run") as client:
        begins_to_wait(server, first, "pass('x') return 'goes on'")
        assert ask(client, "kept.t = app.after(1000, print)") == "true"
        assert ask(client, code) == f"false code:1: {what}: 2 tasks and timers are there already (max_tasks)"
        assert ask(client, "return kept.t:cancel()") == "true true"
        if what != "promise:await":
            assert ask(client, code) in ("true", "true true")
        assert ask(client, "open('x')") == "true" and first.text() == "true goes on"


def test_a_spawned_function_that_waits_counts_once_towards_max_tasks(serve):
    server = serve(RUN, max_tasks=2)
    with server.raw("/run") as client:
        assert ask(client, "for _ = 1, 2 do app.spawn(function() app.sleep(0) log.info('over') end) end") == "true"
        server.wait_log(r"over\n.*over")


def test_a_seventeenth_waiting_handler_costs_its_connection_and_no_other(serve):
    server = serve(RUN + "app.websocket('/x', function(ws) ws:on_ping(function() pass('x') ws:send('on') end) end)")
    with server.raw("/x") as client, server.raw("/x") as neighbour, server.raw("/run") as other:
        for each, pings in (neighbour, 16), (client, 17):
            each.send(frame(PING) * pings)
            assert [each.frame() for _ in range(pings)] == [(PONG, b"")] * pings
        client.expect_close(1011)
        server.wait_log(r"error \[.* /x\] .*promise:await: too many handlers of this connection are waiting already")
        server.wait_metric("tidewire_tasks", 16)
        ask(other, "open('x')")
        assert [neighbour.text() for _ in range(16)] == ["on"] * 16


# ---- functions and timers without a message ----

BAD_SECONDS = ["-1", "-1e-9", "0/0", "1/0", "-1/0", "1e10", "'x'", "nil", "{}", "true"]
MISUSES = {f"app.{f}({seconds}, print)" for f in ("sleep", "after", "every") for seconds in BAD_SECONDS} | {
    "app.every(0, print)", "app.every(0.0009, print)", "app.sleep()", "app.after()", "app.after(1)", "app.after(1, {})",
    "app.every(1, 'x')", "app.spawn()", "app.spawn('x')", "app.spawn(print, table.unpack({}, 1, 200))",
    "app.after(0, print).cancel()", "app.after(0, print).cancel({})", "app.after(0, print):stop()"}
COMPLAINTS = (r"bad argument #[12] to '\w+' \(\S+ expected, got .*\)|"
              r"app\.\w+: \S+ is not a number of seconds from \S+ to 1e9|app.spawn: more than 200 arguments|"
              r"expected a timer as first argument, got .*: call its methods with a colon, as in timer:cancel\(\)|"
              r"app\.\w+: call it with a dot: app\.\w+\(\.\.\.\)|"
              r"a timer has no method 'stop'; there is cancel")


def test_misuse_raises_and_begins_nothing(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        for code in sorted(MISUSES):
            answer = ask(client, code)
            assert re.fullmatch(f"false code:1: ({COMPLAINTS})", answer), (code, answer)
        server.wait_metric("tidewire_timers", 0)
        assert server.metrics()["tidewire_tasks"] == server.metrics()[ERRORS] == 0


def test_spawned_functions_get_their_arguments_and_run_in_order_after_the_handler(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        ask(client, """
            local function f(n, ...) log.info("f", n, select("#", ...), ...) if n == 3 then app.spawn(f, 4) end end
            for i = 1, 3 do app.spawn(f, i, nil, "x", nil) end
            app.spawn(function(...) log.info("last", select("#", ...)) end, table.unpack({}, 1, 199))
            log.info("handler")""")
        server.wait_log("f 4 0")
        lines = [line.split("] ")[1] for line in server.log.splitlines() if "] " in line]
        assert lines == ["handler", *(f"f {i} 3 nil x nil" for i in (1, 2, 3)), "last 199", "f 4 0"]


def test_timers_fire_in_the_order_of_their_times_and_once(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        assert ask(client, """
            local order = {}
            local function f(n, last) return function()
              order[#order + 1] = n
              if last then open("x", table.concat(order, " ")) end
            end end
            for i, s in ipairs({0.03, 0.01, 0, 0.02, 0.01}) do app.after(s, f(i)) end
            app.after(0.06, f(6, true))
            collectgarbage()
            return pass("x")""") == "true 3 2 5 4 1 6"
        assert server.metrics()["tidewire_timers"] == 0


def test_cancel_tells_whether_there_was_anything_to_cancel(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        assert ask(client, "local t = app.after(1000, print) return t:cancel(), t:cancel()") == "true true false"
        assert ask(client, "local t = app.every(1000, print) return t:cancel(), t:cancel()") == "true true false"
        for how, answer in ("after", "false"), ("every", "true"):
            assert ask(client, f"""
                local p, t = app.promise()
                t = app.{how}(0, function() p:resolve(tostring(t:cancel())) end)
                return p:await(), t:cancel()""".replace("every(0", "every(0.001")) == f"true {answer} false"
        assert server.metrics()["tidewire_timers"] == 0


def test_every_fires_until_it_is_cancelled(serve):
    server = serve(RUN + """
        function every(name, times)
          local t
          t = app.every(0.001, function() note(name) if kept[name] == times then t:cancel() open(name) end end)
          return pass(name)
        end""")
    with server.raw("/run") as client:
        assert ask(client, "every('a', 5) every('b', 10) return kept.a, kept.b") == "true 5 10"


@pytest.mark.parametrize("wait", ["app.sleep(0.01)", "nap()", "wrap(nap)()"])
def test_every_leaves_out_turns_while_its_function_waits(serve, wait):
    server = serve(RUN)
    with server.raw("/run") as client:
        assert ask(client, """
            local busy, n, t = false, 0
            t = app.every(0.001, function()
              if busy then open("x", "two at once") end
              busy, n = true, n + 1
              %s
              busy = false
              if n == 5 then t:cancel() collectgarbage() app.sleep(0.005) open("x", "fine") end
            end)
            return pass("x"), n""" % wait) == "true fine 5"


def test_a_function_that_waits_in_a_cancelled_timer_goes_on(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        code = "kept.t = app.every(0.001, function() open('runs') pass('x') log.info('over') end) pass('runs') "
        assert ask(client, code + "return kept.t:cancel()") == "true true"
        assert ask(client, "kept.t = nil collectgarbage() nap() return open('x')") == "true true"
        server.wait_log("over")
        server.wait_metric("tidewire_tasks", 0)


# ---- the script's load, reload and stop ----

AT_LOAD = RUN + """
log.info("loaded")
app.spawn(function() nap() log.info("spawned") end)
app.after(0, function() nap() log.info("after") end)
app.every(0.001, function() note("every") if kept.every == 3 then log.info("every") end end)
assert(app.after(0, function() log.info("wrong") end):cancel())
local p = app.promise()
p:when_complete(function(v) nap() log.info("complete", v) end):resolve(7)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_begun_at_load_runs_in_each_worker_after_the_start(serve, workers):
    server = serve(AT_LOAD, workers=workers)
    for i in range(1, workers + 1):
        for what in ("spawned", "after", "every", "complete 7"):
            assert server.wait_log(rf"\[worker {i}\] {what}\n?").start() > server.log.index("loaded")
    server.wait_metric("tidewire_tasks", 0)
    assert server.metrics()["tidewire_timers"] == workers and server.metrics()[ERRORS] == 0
    assert "wrong" not in whole_log(server)


def test_check_runs_nothing_of_what_is_begun_at_load(tmp_path):
    script = tmp_path / "main.lua"
    script.write_text(AT_LOAD + "app.after(1000, print) app.spawn(loop)", encoding="utf-8")
    checked = run("check", script)
    assert checked.returncode == 0, checked.stderr
    assert not re.search("spawned|after|every|complete", checked.stdout + checked.stderr)


def test_max_tasks_holds_at_load(tmp_path):
    script = tmp_path / "main.lua"
    script.write_text("for _ = 1, 6 do app.after(1, print) end", encoding="utf-8")
    checked = run("check", script, env={"max_tasks": 5})
    assert checked.returncode == 1 and "app.after: 5 tasks and timers are there already (max_tasks)" in checked.stderr


OLD = RUN + """
local function exists() local f = io.open(FLAG) if f then f:close() end return f end
app.every(0.001, function() log.info("old every") end)
local function again() if exists() then log.info("old after") else app.after(0.001, again) end end
app.after(0.001, again)
app.spawn(function() repeat nap() until exists() log.info("old spawned") end)
app.websocket("/x", function(ws)
  ws:on_text(function() log.info("old handler") repeat nap() until exists() ws:send("old") end)
end)
"""


def test_after_a_reload_every_stops_and_what_else_the_old_code_began_ends_by_itself(serve, tmp_path):
    flag = tmp_path / "flag"
    server = serve(f"FLAG = '{flag}'" + OLD)
    with server.raw("/x") as client:
        client.send_frame(TEXT, "a")
        server.wait_log("old every")
        server.wait_log("old handler")
        assert server.reload(RUN + "app.websocket('/x', print) app.every(0.001, function() log.info('new every') end)")
        server.wait_log("new every")
        mark = server.mark()
        server.wait_log("(new every.*\n.*){5}", mark)
        assert "old every" not in "\n".join(server.lines[mark:])
        flag.touch()
        server.wait_log(r"old after")
        server.wait_log(r"old spawned")
        assert client.text() == "old"
    server.wait_metric("tidewire_timers", 1)
    server.wait_metric("tidewire_tasks", 0)
    assert "cancelled" not in whole_log(server)


def test_what_is_left_at_the_end_of_reload_drain_is_cancelled_and_logged(serve):
    server = serve(RUN + """
        app.spawn(function() local x <close> = closing("spawned") pass("never") end)
        app.after(0, function() local x <close> = closing("after") wrap(pass)("never") end)
        app.after(1000, loop)
        """, reload_drain=0.3)
    with server.raw("/run") as old:
        begins_to_wait(server, old, "local x <close> = closing('handler') pass('x')", 3)
        assert server.reload(RUN)
        server.wait_log("generation 1: what was left at the end of reload_drain is cancelled: 4 tasks or timers")
        server.wait_metric("tidewire_timers", 0)
        server.wait_metric("tidewire_tasks", 0)
        server.wait_log(r"(closed (spawned|after|handler) nil(\n.*)?){3}")
        assert server.metrics()["tidewire_tasks_cancelled_total"] == 3
        assert ask(old, "return app.generation") == "true 2"


@not_under_tsan
def test_old_code_is_freed_when_its_last_task_is_over(serve):
    server = serve("BLOB = ('x'):rep(64 << 20) app.spawn(function() app.sleep(0.05) end) app.every(1, print) " + RUN)
    for _ in range(7):
        assert server.reload()
    deadline, resident = time.monotonic() + PATIENCE, 1 << 30
    while resident > 400 << 10:
        assert time.monotonic() < deadline, f"{resident} kB resident after 8 generations of 64 MiB each"
        with open(f"/proc/{server.pid}/status", encoding="ascii") as status:
            resident = int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1))


@pytest.mark.parametrize("when", ["%s", "nap() %s"])
@pytest.mark.parametrize("code", ["app.every(0.01, function() end)", "app.after(1e6, print)",
                                  "app.spawn(app.sleep, 1e6) app.spawn(app.sleep, 1e6)",
                                  "app.spawn(app.sleep, 1e6)", "app.spawn(app.spawn, pass, 'never')",
                                  "local function f() app.spawn(f) end f()"])
def test_what_a_connection_of_the_old_code_begins_after_reload_drain_does_not_outlive_it(serve, code, when):
    """One that was closing at the reload: its on_close comes when the peer answers."""
    server = serve(RUN + "app.after(1000, print)", reload_drain=0.1, close_timeout=3600)
    with server.raw("/run") as old:
        old.send_frame(TEXT, f"ws:on_close(function() log.info('old on_close') {when % code} end) ws:close(3000)")
        assert old.frame() == (CLOSE, close_payload(3000))
        assert server.reload(RUN)
        server.wait_log("reload_drain is cancelled")
        old.send_frame(CLOSE, close_payload(3000))
        old.expect_end()
        server.wait_log("old on_close")
    with server.raw("/run") as new:
        for gauge, left in ("websockets", 1), ("timers", 0), ("tasks", 0):
            server.wait_metric("tidewire_" + gauge, left)
        deadline, calls = time.monotonic() + PATIENCE, None
        while calls != 5:  # nothing else runs meanwhile
            assert time.monotonic() < deadline, "the old code still runs"
            before = server.metrics()["tidewire_handler_calls_total"]
            assert [ask(new, "") for _ in range(5)] == ["true"] * 5
            calls = server.metrics()["tidewire_handler_calls_total"] - before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_waits_when_the_server_stops_is_cancelled(serve, number):
    server = serve(RUN + """
        app.spawn(function() local x <close> = closing("spawned") pass("never") end)
        app.every(0.001, function() local x <close> = closing("every") app.sleep(1e9) end)""", drain_timeout=2)
    with server.raw("/run") as client:
        begins_to_wait(server, client, "local x <close> = closing('handler') pass('never')", 3)
        server.send_signal(number)
        assert client.frame() == (CLOSE, close_payload(1001, b"server is stopping"))
        client.send_frame(CLOSE, close_payload(1001))
        client.expect_end()
    assert server.stop(None) == 0
    assert sorted(re.findall("closed (.*)", server.log)) == ["every nil", "handler nil", "spawned nil"]
