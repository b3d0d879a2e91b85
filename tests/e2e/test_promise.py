# SPDX-License-Identifier: MIT
"""app.promise, the completions of ws:send and ws:close, and what becomes of handlers that wait for a promise when
their connection ends."""
import re
import socket

import pytest

from conftest import BINARY_OP, CLOSE, PATIENCE, TEXT, close_payload, frame
from test_tasks import CUT, ERRORS, RUN, ask, begins_to_wait, vanish, whole_log

# ---- outcomes ----

OUTCOMES = {
    "return p:resolve(7), p:await()": "true 7",
    "return p:resolve(), p:await()": "true nil",
    "return p:resolve(false), p:await()": "true false",
    "local t = {} p:resolve(t) return p:await() == t, p:await() == t": "true true",
    "p:resolve(1, 2) return select('#', p:await()), p:await()": "1 1",
    "return p:reject('why'), p:await()": "true nil why",
    "return p:reject(), p:await()": "true nil rejected",
    "return p:reject(nil), p:await()": "true nil rejected",
    "return p:reject(false), p:await()": "true nil false",
    "p:reject('why', 2) return select('#', p:await())": "2",
    "return p:resolve(1), p:resolve(2), p:reject(3), p:await()": "true false false 1",
    "return p:reject(1), p:reject(2), p:resolve(3), p:await()": "true false false nil 1",
    "p:resolve(p) return p:await() == p": "true",
    "local q = app.promise() p:resolve(q) return p:await() == q, tostring(q)": "true promise (pending)",
    "local a = tostring(p) p:resolve() return a, tostring(p)": "promise (pending) promise (resolved)",
    "p:reject() return tostring(p)": "promise (rejected)",
    "app.after(0.001, function() p:resolve(7) end) return p:await(), p:await()": "7 7",
    "app.spawn(function() p:reject('why') end) return p:await()": "nil why",
    "app.spawn(p.resolve, p, 7) return wrap(function() return wrap(p.await)(p) end)()": "7",
    "app.spawn(p.reject, p, 'why') return pcall(p.await, p)": "true nil why",
    "app.spawn(p.reject, p, 'why') return pcall(function() assert(p:await()) end)": "false code:1: why",
    "app.spawn(function() p:resolve(p) p = nil collectgarbage() end) return tostring(p:await())": "promise (resolved)",
}


@pytest.mark.parametrize("code", OUTCOMES)
def test_outcome(serve, code):
    server = serve(RUN)
    with server.raw("/run") as client:
        for _ in range(2):
            assert ask(client, "local p = app.promise() " + code) == "true " + OUTCOMES[code]
        assert server.metrics()["tidewire_tasks"] == server.metrics()[ERRORS] == 0


@pytest.mark.parametrize("settle, answer", [("resolve(7)", "true 7"), ("reject('why')", "true nil why")])
def test_all_who_wait_go_on_in_their_order_after_the_one_who_settles(serve, settle, answer):
    server = serve(RUN + "shared = app.promise()")
    clients = [server.raw("/run") for _ in range(50)]
    with server.raw("/run") as other:
        for i, client in enumerate(clients):
            begins_to_wait(server, client, f"local a, b = shared:await() log.info('goes on', {i}) return a, b", i + 1)
        assert ask(other, f"local ok = shared:{settle} log.info('settled') return ok") == "true true"
        for client in clients:
            assert client.text() in (answer, answer + " nil")
            client.close()
        assert ask(other, "return shared:await()") == answer
    assert re.findall(r"settled|goes on \d+", whole_log(server)) == ["settled", *(f"goes on {i}" for i in range(50))]


COMPLETE = """
local p, order = app.promise(), {}
local function f(name) return function(...)
  order[#order + 1] = name .. select("#", ...) .. tostring((...)) .. tostring((select(2, ...)))
end end
"""
CALLBACKS = {
    "p:when_complete(f'a') p:when_complete(f'b') p:resolve(7) p:when_complete(f'c')": "a17nil b17nil c17nil",
    "p:reject('e') p:when_complete(f'a') p:when_complete(f'b')": "a2nile b2nile",
    "p:when_complete(f'a'):when_complete(f'b'):resolve() f'now'(1)": "now11nil a1nilnil b1nilnil",
    "p:resolve(7) p:when_complete(f'a') f'now'(1)": "now11nil a17nil",
    "local g = f'a' p:when_complete(g):when_complete(g):resolve(7)": "a17nil a17nil",
    "p:when_complete(function() f'a'(1) p:when_complete(f'b') f'c'(1) end):resolve(7)": "a11nil c11nil b17nil",
    "p:when_complete(function() error('boom') end):when_complete(f'b'):resolve(7)": "b17nil",
    "p:when_complete(function() nap() f'late'(1) end):when_complete(f'b'):resolve(7)": "b17nil late11nil",
    "local q = app.promise():when_complete(f'q') p:when_complete(function(v) q:resolve(v) end):resolve(7)": "q17nil",
    "p:when_complete(function() p:resolve(8) end):when_complete(f'a'):resolve(7)": "a17nil",
    "p:when_complete(f'a') app.spawn(p.resolve, p, 7) p:await() nap() f'me'(1)": "a17nil me11nil",
    "wrap(function() p:when_complete(f'a') p:resolve(7) end)()": "a17nil",
}


@pytest.mark.parametrize("code", CALLBACKS)
def test_functions_are_called_once_each_in_order_and_never_at_once(serve, code):
    server = serve(RUN)
    with server.raw("/run") as client:
        assert ask(client, f"{COMPLETE} {code} collectgarbage() for _ = 1, 3 do nap() end "
                           "return table.concat(order, ' ')") == "true " + CALLBACKS[code]
        assert server.metrics()[ERRORS] == code.count("boom")
    assert whole_log(server).count(": boom") == code.count("boom")


def test_a_function_may_add_another_ten_thousand_times(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        assert ask(client, """
            local p, n = app.promise(), 0
            local function f() n = n + 1 if n < 10000 then p:when_complete(f) else open("x") end end
            p:when_complete(f):resolve()
            pass("x")
            return n""") == "true 10000"


@pytest.mark.parametrize("how", ["ws:on_close(function() kept.p:resolve(ws.close_code) end)",
                                 "ws:on_close(function() nap() kept.p:resolve(ws.close_code) end)",
                                 "app.spawn(function() local x <close> = closing('x', function() kept.p:resolve(1000) "
                                 "end) repeat app.sleep(0) until ws.is_closed end)"])
def test_the_end_of_one_connection_can_settle_what_another_waits_for(serve, how):
    server = serve(RUN)
    with server.raw("/run") as client, server.raw("/run") as other:
        assert ask(other, "kept.p = app.promise()") == "true"
        assert ask(client, how) == "true"
        other.send_frame(TEXT, "return kept.p:await()")
        vanish(client, "Close")
        assert other.text() == "true 1000"


def test_promises_that_nobody_keeps_are_collected(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        assert ask(client, """
            collectgarbage() collectgarbage()
            local before = collectgarbage("count")
            for i = 1, 100000 do
              local p = app.promise()
              if i % 4 == 0 then p:resolve(p) elseif i % 4 == 1 then p:when_complete(function() return p end) end
              if i % 1000 == 0 then p:when_complete(function() return p end):reject(p) end
            end
            nap() collectgarbage() collectgarbage()
            return collectgarbage("count") - before < 1000""") == "true true"


MISUSES = {
    "p.await()": "expected a promise as first argument, got no value: call its methods with a colon",
    "p.resolve(7)": "expected a promise as first argument, got number: call its methods with a colon",
    "p.reject('x')": "expected a promise as first argument, got string: call its methods with a colon",
    "p.when_complete(print)": "expected a promise as first argument, got function: call its methods with a colon",
    "p.await(app.after(0, print))": "expected a promise as first argument, got ",
    "p:when_complete()": "function expected, got no value", "p:when_complete(7)": "function expected, got number",
    "p:when_complete(p)": "function expected, got ", "p:then_do(print)": "a promise has no method 'then_do'",
    "p.value = 7": "attempt to index", "p()": "attempt to call", "setmetatable(p, {})": "table expected",
    "error(getmetatable(p) == false and 'kept away')": "kept away",
}


@pytest.mark.parametrize("code", MISUSES)
def test_misuse_raises_and_changes_nothing(serve, code):
    server = serve(RUN)
    with server.raw("/run") as client:
        answer = ask(client, "kept.p = app.promise() local p = kept.p " + code)
        assert answer.startswith("false code:1: ") and MISUSES[code] in answer, answer
        code = "return tostring(kept.p), kept.p:resolve(7), kept.p:await()"
        assert ask(client, code) == "true promise (pending) true 7"


# ---- handlers that wait for a promise are cancelled with their connection ----

# What to run in a handler that has a variable a, and in which order the variables are closed.
CANCELLED = {
    "the handler": ("local b <close> = closing('b') nap() pass('never')", "ba"),
    "sleep": ("local b <close> = closing('b') app.sleep(1e9)", "ba"),
    "pcall": ("pcall(stay, 'b')", "ba"),
    "xpcall": ("xpcall(stay, function() log.info('wrong') end, 'b')", "ba"),
    "a coroutine": ("wrap(stay)('b')", "ba"),
    "coroutines": ("resume(create(function() local b <close> = closing('b') wrap(function() local c <close> = "
                   "closing('c') pcall(resume, create(stay), 'd') end)() end))", "dcba"),
    "an iterator": ("for _ in wrap(function() stay('c') end), nil, nil, closing('b') do end", "cba"),
    "the body of a loop": ("for _ in wrap(function() local b <close> = closing('wrong') yield(1) end), nil, nil, "
                           "closing('b') do stay('c') end", "cba"),
    "a metamethod": ("local x = setmetatable({}, {__index = wrap(function() stay('b') end)}).x", "ba"),
    "a closing method": ("do local b <close> = closing('never', function() stay('c') end) end", "ca"),
    "one that opens gates": ("local b <close> = closing('b', function() open('never') end) stay('c')", "cba"),
    "one that meddles": ("local me local b <close> = closing('b', function() assert(coroutine.status(me) == 'dead' and "
                         "not resume(me)) end) me = create(function() local c <close> = closing('c', function() "
                         "assert(not pcall(coroutine.close, me) and not resume(me)) end) stay('d') end) resume(me)",
                         "dcba"),
}


@pytest.mark.parametrize("where", CANCELLED)
def test_cancelling_closes_variables_innermost_first_and_runs_nothing_else(serve, where):
    code, order = CANCELLED[where]
    server = serve(RUN)
    with server.raw("/run") as client:
        begins_to_wait(server, client, f"local a <close> = closing('a') {code} log.info('wrong')")
        server.wait_metric("tidewire_timers", 0)
        client.close()
        server.wait_log("on_close 1006")
    assert "".join(re.findall(r"closed (\w)", server.log)) == order
    assert "wrong" not in server.log and "error" not in server.log
    metrics = server.metrics()
    assert (metrics["tidewire_tasks"], metrics["tidewire_tasks_cancelled_total"]) == (0, 1)


WRONG_CLOSING = {
    "error('boom')": ("code:1: boom", ERRORS), "error({})": ("error object is a table", ERRORS),
    "app.sleep(0)": ("app.sleep: cannot wait here", ERRORS), "pass('x')": ("promise:await: cannot wait here", ERRORS),
    "wrap(app.sleep)(0)": ("app.sleep: cannot wait", ERRORS), "yield()": ("attempt to yield", ERRORS),
    "loop()": ("cut: ", CUT), "pcall(loop)": ("cut: ", CUT), "wrap(loop)()": ("cut: ", CUT),
}


@pytest.mark.parametrize("place", ["the handler", "a coroutine"])
@pytest.mark.parametrize("code", WRONG_CLOSING)
def test_what_goes_wrong_while_being_cancelled_is_logged_and_ends_there(serve, code, place):
    server = serve(RUN, handler_budget=0.2)
    waiting = f"local c <close> = closing('c') local b <close> = closing('b', function() {code} end) pass('never')"
    with server.raw("/run") as client, server.raw("/run") as other:
        begins_to_wait(server, client, "local a <close> = closing('a') " + (
            waiting if place == "the handler" else f"wrap(function() {waiting} end)()"))
        client.close()
        server.wait_log(r"on_close 1006")
        assert ask(other, "nap() return wrap(nap)()") == "true"
        pattern, metric = WRONG_CLOSING[code]
        assert server.metrics()[metric] == server.metrics()["tidewire_tasks_cancelled_total"] == 1
        assert server.metrics()["tidewire_tasks"] == 0
        assert re.search(r"error \[worker 1, connection \d+, /run\] .*" + pattern, server.log), server.log
        # Once it has been cut, no other code of that coroutine runs.
        closed = "".join(re.findall(r"closed (\w)", server.log))
        assert closed == ("ca" if metric == ERRORS else "" if place == "the handler" else "a")


def test_cancelling_one_of_two_that_await_a_promise_leaves_the_other(serve):
    server = serve(RUN)
    with server.raw("/run") as client, server.raw("/run") as second, server.raw("/run") as other:
        begins_to_wait(server, client, "pass('x') log.info('wrong')", 1)
        begins_to_wait(server, second, "return pass('x')", 2)
        client.close()
        server.wait_log("on_close 1006")
        assert ask(other, "return open('x', 7)") == "true true"
        assert second.text() == "true 7"
        assert ask(other, "nap()") == "true"
    assert "wrong" not in whole_log(server)


def test_what_a_connection_has_begun_outlives_it(serve):
    server = serve(RUN)
    with server.raw("/run") as client, server.raw("/run") as other:
        assert ask(client, """
            app.spawn(function() pass("x") log.info("spawned", ws.is_closed) end)
            local t t = app.every(0.001, function() if ws.is_closed then t:cancel() log.info("every") end end)
            ws:on_close(function() pass("x") log.info("closed", ws.close_code) end)""") == "true"
        vanish(client, "Close")
        server.wait_log("every")
        server.wait_metric("tidewire_tasks", 2)
        ask(other, "open('x')")
        server.wait_log(r"spawned true\n.*closed 1000")


def test_a_thousand_waiting_handlers_whose_clients_vanish_are_all_cancelled(serve):
    server = serve(RUN + """
        kept.closed, kept.cancelled = 0, 0
        local count = setmetatable({}, {__close = function() kept.cancelled = kept.cancelled + 1 end})
        local function wait(n)
          local x <close> = count
          if n % 3 == 0 then app.sleep(1e6) elseif n % 3 == 1 then pass("never") else wrap(pass)("never") end
        end
        app.websocket("/x", function(ws)
          ws:on_text(function(ws, n) wait(tonumber(n)) end)
          ws:on_close(function() kept.closed = kept.closed + 1 end)
        end)""", read_ahead=100)
    with server.raw("/run") as other:
        clients = [server.raw("/x") for _ in range(1000)]
        for i, client in enumerate(clients):
            client.send(frame(TEXT, str(i)) + (frame(TEXT, b"x" * 50) * (i % 3)))
        server.wait_metric("tidewire_tasks", 1000)
        for i, client in enumerate(clients):
            vanish(client, ["close", "reset", "Close"][i % 3])
        server.wait_metric("tidewire_websockets", 1)
        assert ask(other, "return kept.closed, kept.cancelled, open('never')") == "true 1000 1000 true"
        metrics = server.metrics()
    assert metrics["tidewire_tasks"] == metrics["tidewire_reassembly_bytes"] == 0
    assert metrics["tidewire_tasks_cancelled_total"] == 1000 and metrics[ERRORS] == 0


# ---- done ----

SENDS = {
    "ws:send('x', done)": (TEXT, b"x"), "ws:send({1, 2}, done)": (BINARY_OP, b"\1\2"), "ws:send('', done)": (TEXT, b""),
    "ws:send_binary('x', done)": (BINARY_OP, b"x"), "ws:close(done)": (CLOSE, close_payload(1000)),
    "ws:close(3000, done)": (CLOSE, close_payload(3000)),
    "ws:close(3000, 'x', done)": (CLOSE, close_payload(3000, b"x")),
    "ws:close(nil, done)": (CLOSE, close_payload(1000)), "ws:close(nil, nil, done)": (CLOSE, close_payload(1000)),
}
DONE = "local function done(...) log.info('done', select('#', ...), ...) end "


@pytest.mark.parametrize("call", SENDS)
@pytest.mark.parametrize("kind", ["function", "promise"])
def test_done_is_told_once_after_the_call_when_the_kernel_has_it(serve, kind, call):
    server = serve(RUN)
    with server.raw("/run") as client:
        client.send_frame(TEXT, DONE + f"""
            local done = done
            if '{kind}' == 'promise' then
              local p, f = app.promise(), done
              app.spawn(function() f(p:await()) end)
              done = p
            end
            log.info("returns", {call})
            ws.state.done = done""")
        assert client.frame() == SENDS[call]
        server.wait_log(r"returns true\n.*done 1 true")
        if client.buffer or "close" not in call:
            assert client.text() == "true"
            assert ask(client, "nap()") == "true"
    assert server.metrics()[ERRORS] == 0 and whole_log(server).count("done") == 1


def test_a_promise_may_be_the_done_of_several_and_takes_the_first_outcome(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        client.send_frame(TEXT, "local p = app.promise() ws:send('\\xff', p) ws:send('a', p) nap() return p:await()")
        assert [client.text(), client.text()] == ["a", "true nil not UTF-8"]
        assert ask(client, "local p = app.promise() p:resolve(7) ws:send('b', p) nap() return p:await()") == "b"
        assert client.text() == "true 7"


@pytest.mark.parametrize("size", [10, 500])
def test_ten_thousand_sends_of_one_handler_are_done_in_their_order(serve, size):
    server = serve(RUN, send_limit="16m")
    with server.raw("/run") as client:
        client.send_frame(TEXT, f"""
            for i = 1, 10000 do
              ws:send(("x"):rep({size}) .. i, function(ok)
                assert(ok == true and i == (kept.n or 0) + 1, "out of order")
                kept.n = i
                if i == 10000 then open("x") end
              end)
            end
            pass("x") app.sleep(0)
            return kept.n""")
        for i in range(1, 10001):
            assert client.text() == "x" * size + str(i)
        assert client.text() == "true 10000"
        assert server.metrics()[ERRORS] == 0


def slow_client(server, path="/flood"):
    """A client whose kernel takes little."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    return server.wrap(sock).upgrade(path)


COUNT, SIZE = 300, 32768
FLOOD = RUN + f"""
app.websocket("/flood", function(ws)
  local left = 0
  ws:on_text(function(ws, text)
    for i = 1, {COUNT} do
      local ok, why
      ok, why = ws:send(("x"):rep({SIZE}), function(done, reason)
        log.info("done", i, done, reason)
        if done and ws.buffered > ({COUNT} - i) * ({SIZE} + 4) then log.info("too early", i) end
      end)
      log.info("sent", i, ok, why)
      if i % 10 == 0 then ws:pong() end
    end
    log.info("all sent")
  end)
  ws:on_close(function(ws, code) log.info("over", code) end)
end)
"""


def outcomes(server):
    """What each send returned, and what its done was told, once each."""
    log = whole_log(server)
    sent, done = dict(re.findall(r"sent (\d+) (.*)", log)), re.findall(r"done (\d+) (.*)", log)
    assert len(sent) == len(done) == COUNT and len(dict(done)) == COUNT and "too early" not in log
    accepted = [int(i) for i, outcome in done if sent[i] == "true nil"]
    assert accepted == sorted(accepted)
    return [(sent[i], dict(done)[i]) for i in map(str, range(1, COUNT + 1))]


@pytest.mark.parametrize("how", ["close", "reset", "stop"])
def test_done_of_what_a_peer_never_reads_is_told_closed_when_it_is_gone(serve, how):
    server = serve(FLOOD, send_limit="1g", drain_timeout=0.2)
    with slow_client(server) as client:
        client.send_frame(TEXT, "go")
        server.wait_log("all sent")
        server.wait_log("done 1 true nil")
        if how == "stop":
            assert server.stop() == 0
        else:
            vanish(client, how)
            server.wait_log(rf"done {COUNT} nil closed")
    got = outcomes(server)
    told = [done for _, done in got]
    taken = told.count("true nil")
    assert told == ["true nil"] * taken + ["nil closed"] * (COUNT - taken) and 0 < taken < COUNT
    assert {sent for sent, _ in got} == {"true nil"}


@pytest.mark.parametrize("peer", ["reads", "vanishes", "stays"])
@pytest.mark.parametrize("on_slow", ["close", "drop"])
def test_done_when_the_queue_overflows(serve, on_slow, peer):
    server = serve(FLOOD, on_slow=on_slow, send_limit="256k", close_timeout=0.2 if peer == "stays" else 3600)
    with slow_client(server) as client:
        client.send_frame(TEXT, "go")
        server.wait_log("all sent")
        accepted = len(re.findall("sent .* true nil", server.log))
        if peer == "vanishes":
            vanish(client, "reset")
        elif peer == "reads":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            frames = 0
            while frames < accepted:
                frames += client.frame()[0] == TEXT
            if on_slow == "close":
                client.close()
        elif on_slow == "drop":
            server.wait_log(rf"done {COUNT} nil queue full")
            client.close()
        for i in range(1, COUNT + 1):
            server.wait_log(rf"done {i} ")
    refused = [pair for pair in outcomes(server) if pair[0] != "true nil"]
    expected = [("nil queue full", "nil queue full")] + [("nil closed", "nil closed")] * (COUNT - accepted - 1)
    assert refused == (expected if on_slow == "close" else [expected[0]] * (COUNT - accepted)) and accepted > 0
    told = [done for sent, done in outcomes(server) if sent == "true nil"]
    taken = told.count("true nil")
    assert told == ["true nil"] * taken + ["nil closed"] * (accepted - taken)
    assert taken == accepted if peer == "reads" else taken < accepted


@pytest.mark.parametrize("who", ["function() log.info('told', P:await()) end",
                                 "function() log.info('told', wrap(function() nap() return P:await() end)()) end"])
def test_who_awaits_a_done_is_told_when_the_server_stops(serve, who):
    server = serve(RUN + f"P = app.promise() app.spawn({who})" + """
        app.websocket("/flood", function(ws)
          ws:on_text(function() ws:send(("x"):rep(64 << 20), P) log.info("sent") end)
        end)""", drain_timeout=0.2, handler_budget=60)
    with slow_client(server) as client:
        client.send_frame(TEXT, "go")
        server.wait_log("sent")
        server.wait_metric("tidewire_timers", 0)
        assert server.stop() == 0
    assert server.log.count("told nil closed") == 1


@pytest.mark.parametrize("call, why", [
    ("ws:send('\\xff', done)", "not UTF-8"), ("ws:close() ws:send('x', done)", "closed"),
    ("ws:close() ws:send_binary('x', done)", "closed"), ("ws:close() ws:send('\\xff', done)", "not UTF-8"),
    ("ws:close() ws:close(done)", "closed"), ("ws:close() ws:close(3000, 'x', done)", "closed"),
    ("ws:on_close(function() ws:send({1}, done) end) ws:close()", "closed"),
    ("ws:on_close(function() nap() ws:send('x', done) end) ws:close()", "closed"),
    ("ws:on_close(function() app.spawn(function() ws:close(done) end) end) ws:close()", "closed")])
def test_done_of_what_cannot_be_sent_is_told_once_after_the_call(serve, call, why):
    server = serve(RUN)
    with server.raw("/run") as client:
        client.send_frame(TEXT, f"{DONE} {call} log.info('returned')")
        if "close" in call:
            assert client.frame()[0] == CLOSE
            client.send_frame(CLOSE, close_payload(1000))
            client.expect_end()
        server.wait_log(rf"done 2 nil {why}\n?")
        server.wait_log("returned")
    log = whole_log(server)
    assert log.count("done") == 1 and ("on_close" in call or log.index("returned") < log.index("done"))


def test_a_done_that_fails_or_waits_holds_up_nobody(serve):
    server = serve(RUN, handler_budget=0.1)
    with server.raw("/run") as client:
        client.send_frame(TEXT, """
            for _, f in ipairs({function() error("boom") end, loop, function() nap() log.info("late") end, function()
              log.info("last") end}) do ws:send("x", f) end""")
        assert [client.text() for _ in range(5)] == ["x"] * 4 + ["true"]
        server.wait_log(r"error \[worker 1, connection \d+, /run\] code:2: boom[\s\S]*cut: [\s\S]*last\n.*late")
        assert ask(client, "return 'alive'") == "true alive"
        assert (server.metrics()[ERRORS], server.metrics()[CUT]) == (1, 1)


def test_a_done_within_a_done_is_told_too(serve):
    server = serve(RUN)
    with server.raw("/run") as client:
        client.send_frame(TEXT, """
            local n = 0
            local function again()
              n = n + 1
              if n < 100 then ws:send(tostring(n), again) else ws:close(1000, "end", again) end
            end
            again()""")
        got = [client.frame() for _ in range(101)]
    assert sorted(got[:100]) == sorted([(TEXT, b"%d" % i) for i in range(1, 100)] + [(TEXT, b"true")])
    assert got[100] == (CLOSE, close_payload(1000, b"end"))


NOT_DONE = ["7", "'x'", "{}", "true", "false", "ws", "app.after(0, print)", "coroutine.create(print)"]


@pytest.mark.parametrize("method", ["send", "send_binary", "close"])
@pytest.mark.parametrize("value", NOT_DONE)
def test_a_done_that_is_neither_a_function_nor_a_promise_raises_and_sends_nothing(serve, method, value):
    server = serve(RUN)
    with server.raw("/run") as client:
        answer = ask(client, f"ws:{method}({'1000, ' if method == 'close' else ''}'data', {value})")
        assert re.match(rf"false code:1: ws:{method}: done is a function or a promise, not a \w+$", answer), answer
        if method == "close":
            assert ask(client, f"ws:close({value}, nil)").startswith("false code:1: ")
        assert ask(client, "return ws.is_closed") == "true false"


# ---- reload ----


def test_what_is_due_together_with_the_end_of_reload_drain_leaves_all_connections_in_the_new_code(serve):
    server = serve(RUN, reload_drain=0.3)
    with server.raw("/run") as client, server.raw("/run") as waiting:
        begins_to_wait(server, waiting, "app.sleep(0.2) return 'goes on'")
        begins_to_wait(server, client, """
            while app.shared.get("reloaded") == nil do app.sleep(0.001) end
            local start = os.clock()
            while os.clock() < start + 0.6 do end
            ws:send("x", function(ok) app.send(ws.id, "done " .. tostring(ok)) end)""", 2)
        # The worker is busy from the new code's start on: what it then finds due is due with the end of reload_drain.
        assert server.reload(RUN + "app.on_start(function() app.shared.set('reloaded', true) end)")
        assert client.text() == "x"
        assert sorted([client.text(), client.text()]) == ["done true", "true"]
        assert ask(client, "return app.generation") == "true 2"
        answer = ask(waiting, "return app.generation")  # its handler has gone on, or was cancelled
        assert answer == "true 2" or (answer, waiting.text()) == ("true goes on", "true 2")


def test_a_promise_of_the_old_code_settles_for_its_connections(serve):
    server = serve(RUN)
    with server.raw("/run") as client, server.raw("/run") as other:
        begins_to_wait(server, client, "return pass('x')")
        begins_to_wait(server, other,
                       "while not app.shared.get('go') do app.sleep(0.001) end return open('x', 'old')", 2)
        assert server.reload(RUN)
        with server.raw("/run") as new, server.raw("/run") as opener:
            begins_to_wait(server, new, "return pass('x')", 3)
            assert ask(opener, "app.shared.set('go', true)") == "true"
            assert other.text() == "true true"
            assert client.text() == "true old"
            assert server.metrics()["tidewire_tasks"] == 1  # the new code has promises of its own
            assert ask(client, "return open('x', 'new')") == "true true"
            assert new.text() == "true new"
