# SPDX-License-Identifier: MIT
"""Where app.connect may be called from, how attempts are given up, how many there can be, and what becomes of attempts
and of open clients at a reload and when the server stops."""
import re
import select
import signal
import socket
import struct

import pytest

from conftest import BINARY_OP, CLOSE, ROOT, TEXT, close_payload, frame
from migrating import MOVED, ask, on_each_worker, tell
from upstream import CLIENTS, DIAL, FAILED, OPENED, Upstream, finish_answer, free_port

CANCELLED = "tidewire_tasks_cancelled_total"


@pytest.fixture
def upstream():
    u = Upstream()
    yield u
    u.close()


def nothing_left(server):
    server.wait_metric(CLIENTS, 0)
    server.wait_metric("tidewire_tasks", 0)


# ---- where from ----

START = """
app.{when}(function()
  log.info("dials in", app.worker, dial("{url}", {{}}, function(c) hear(c) c:send("hi from " .. app.worker) end))
end)
"""


@pytest.mark.parametrize("when", ["on_start", "spawn"])
@pytest.mark.parametrize("workers", [1, 2])
def test_from_functions_that_run_when_the_code_begins_to_serve(serve, upstream, when, workers):
    server = serve(DIAL + START.format(when=when, url=upstream.url), workers=workers)
    greetings = set()
    for _ in range(workers):
        peer = upstream.open()
        greetings.add(peer.frame()[1].decode())
    assert greetings == {f"hi from {i}" for i in range(1, workers + 1)}
    for i in range(1, workers + 1):
        server.wait_log(f"dials in {i} open")
    assert server.metrics()[CLIENTS] == workers


@pytest.mark.parametrize("call", ["app.after(0.001, F)", "app.spawn(F)", "app.promise():when_complete(F):resolve()",
                                  "ws:send('', F)", "local t t = app.every(0.001, function() t:cancel() F() end)"])
def test_from_functions_of_their_own(serve, upstream, call):
    server = serve(DIAL + "function F() log.info('dials', dial('" + upstream.url + "')) end")
    with server.raw("/run") as client:
        tell(client, call.replace(":when_complete(F):resolve()", "") if "promise" not in call else
             "local p = app.promise() p:when_complete(F) p:resolve()")
        upstream.open().send_frame(TEXT, "welcome")
        server.wait_log("dials open")
        server.wait_log("client text <welcome>")


WRAPPED = {
    "pcall": "return pcall(function() return dial('{}') end)",
    "a coroutine": "return coroutine.wrap(function() local r = dial('{}') coroutine.yield(r) end)()",
    "coroutines in pcall": "return pcall(coroutine.wrap(function() return coroutine.wrap(function() "
                           "return select(2, pcall(dial, '{}')) end)() end))",
    "a metamethod": "return tostring(setmetatable({{}}, {{__index = function() return dial('{}') end}}).x)",
    "an iterator": "for r in function(_, last) if not last then return dial('{}') end end do return r end",
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_within_pcall_and_coroutines_of_the_scripts_own(serve, upstream, wrapped):
    server = serve(DIAL)
    with server.raw("/run") as client:
        tell(client, WRAPPED[wrapped].format(upstream.url))
        upstream.open()
        assert client.text() in ("open", "true open")
        tell(client, WRAPPED[wrapped].format(upstream.url))
        upstream.accept().close()
        assert client.text().endswith("the server closed the connection without an answer")


HTTP = """
app.get("/dial", function(req)
  local x <close> = setmetatable({}, {__close = function() log.info("client over") end})
  return dial(req.query.url)
end)
app.use(function(req, next) if req.query.first then dial(req.query.first) end return next(req) end)
"""


def test_from_an_http_handler_and_middleware(serve, upstream):
    server = serve(DIAL + HTTP)
    with server.raw() as client:
        client.send(f"GET /dial?url={upstream.url}a&first={upstream.url}b HTTP/1.1\r\nHost: x\r\n\r\n")
        upstream.open()
        peer = upstream.open()
        assert client.response().body == "open"
        peer.send_frame(TEXT, "welcome")
        server.wait_log("client text <welcome>")
        assert server.metrics()[CLIENTS] == 2


def test_a_handshake_that_connects_first(serve, upstream):
    server = serve(DIAL + f"""app.websocket("/x", {{should_upgrade = function()
        return dial('{upstream.url}') == 'open' end}}, function(ws) ws:send('welcome') end)""")
    with server.raw() as client:
        client.handshake("/x")
        upstream.open()
        assert client.response().status == 101
        assert client.text() == "welcome"


# ---- giving up ----

# How far an attempt has come when it is given up.
PART = b"HTTP/1.1 101 Switching"
STAGES = ["nothing", "request", "part of the answer"]


def reach(upstream, stage):
    peer = upstream.accept()
    if stage != "nothing":
        peer.ask()
    if stage == "part of the answer":
        peer.send(PART)
    return peer


@pytest.mark.parametrize("stage", STAGES)
def test_a_websocket_that_ends_cancels_its_attempt(serve, upstream, stage):
    server = serve(DIAL)
    client = server.raw("/run")
    tell(client, f"return coroutine.wrap(pcall)(dial, '{upstream.url}')")
    peer = reach(upstream, stage)
    assert server.metrics()[CLIENTS] == 1
    client.close()
    peer.expect_gone()
    nothing_left(server)
    metrics = server.metrics()
    assert (metrics[OPENED], metrics[FAILED], metrics[CANCELLED]) == (0, 0, 1)


def test_an_http_client_that_leaves_cancels_its_attempt(serve, upstream):
    server = serve(DIAL + HTTP)
    with server.raw() as client:
        client.send(f"GET /dial?url={upstream.url} HTTP/1.1\r\nHost: x\r\n\r\n")
        peer = upstream.accept().ask()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # one that only ends
    peer.expect_gone()  # its side still wants the answer
    nothing_left(server)
    server.wait_log("client over")


def test_an_http_request_over_its_time_cancels_its_attempt(serve, upstream):
    server = serve(DIAL + HTTP, request_timeout=0.2)
    with server.raw() as client:
        assert client.request(f"GET /dial?url={upstream.url} HTTP/1.1\nHost: x\n\n").status == 503
        upstream.accept().ask().expect_gone()
    nothing_left(server)


def test_an_attempt_whose_name_is_being_resolved_can_be_cancelled(serve):
    server = serve(DIAL)
    for _ in range(5):
        client = server.raw("/run")
        tell(client, "return dial('ws://nobody.invalid/')")
        client.close()
    server.wait_metric("tidewire_websockets", 0)
    nothing_left(server)


def test_a_client_that_is_open_outlives_the_handler_that_opened_it(serve, upstream):
    server = serve(DIAL)
    client = server.raw("/run")
    tell(client, f"dial('{upstream.url}') log.info('opened') pass('never')")
    peer = upstream.open()
    server.wait_log("opened")
    client.close()
    server.wait_metric("tidewire_tasks", 0)
    peer.send_frame(TEXT, "still there?")
    server.wait_log("client text <still there\\?>")
    assert server.metrics()[CLIENTS] == 1


def test_the_same_when_it_ends_while_the_function_waits(serve, upstream):
    server = serve(DIAL)
    client = server.raw("/run")
    tell(client, f"dial('{upstream.url}', {{}}, function(c) hear(c) log.info('waits') pass('go') c:send('set up') end) "
                 "pass('never')")
    peer = upstream.open()
    server.wait_log("waits")
    client.close()
    server.wait_metric("tidewire_tasks", 1)
    with server.raw("/run") as other:
        ask(other, "open('go') return 1")
    assert peer.frame() == (TEXT, b"set up")


@pytest.mark.parametrize("ending", ["close", "end"])
def test_a_connection_that_ends_while_the_function_waits_cancels_it(serve, upstream, ending):
    server = serve(DIAL)
    with server.raw("/run") as client:
        tell(client, f"return dial('{upstream.url}', {{}}, function(c) hear(c) log.info('waits') pass('never') end)")
        peer = upstream.open()
        server.wait_log("waits")
        assert client.text() == "open"
        if ending == "close":
            peer.send_frame(CLOSE, close_payload(3000))
        peer.close()
        server.wait_log("client closed <(3000|1006) >")
        nothing_left(server)


# ---- many ----


def test_two_at_once_do_not_wait_for_each_other(serve, upstream):
    server = serve(DIAL)
    with server.raw("/run") as a, server.raw("/run") as b:
        tell(a, f"return dial('{upstream.url}a')")
        first = upstream.accept().ask()
        tell(b, f"return dial('{upstream.url}b')")
        upstream.accept().ask().switch()
        assert b.text() == "open"
        first.switch()
        assert a.text() == "open"


MANY = """
function many(url, n, f)
  local ok, bad, left, all = 0, {}, n, app.promise()
  for i = 1, n do
    app.spawn(function()
      local c, why = app.connect(url, f or function() end)
      if c then ok = ok + 1 ALL[#ALL + 1] = c else bad[#bad + 1] = why end
      left = left - 1
      if left == 0 then all:resolve() end
    end)
  end
  all:await()
  return ok, #bad, tostring(bad[1])
end
ALL = {}
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_200_at_once(serve, workers):
    server = serve(DIAL + MANY, workers=workers)
    with server.raw("/run") as client:
        assert ask(client, f"""GOT = 0 return many('{server.url('/echo')}', 200, function(c)
            c:on_text(function() GOT = GOT + 1 end) c:send('hello') end)""") == "200 0 nil"
        assert ask(client, "while GOT < 200 do app.sleep(0.001) end return GOT") == "200"
        assert server.metrics()[CLIENTS] == 200
        ask(client, "for _, c in ipairs(ALL) do c:close() end return 1")
        nothing_left(server)
        server.wait_metric("tidewire_connections", 1)


def test_200_refused_at_once(serve):
    server = serve(DIAL + MANY)
    held, port = free_port()
    with held, server.raw("/run") as client:
        assert ask(client, f"return many('ws://127.0.0.1:{port}/', 200)") == \
            f"0 200 connect to 127.0.0.1:{port}: Connection refused"
        nothing_left(server)
        assert server.metrics()[FAILED] == 200


def test_max_clients_counts_attempts_and_open_ones(serve, upstream):
    server = serve(DIAL + MANY, max_clients=3)
    full = "too many connections (max_clients is 3)"
    with server.raw("/run") as client, server.raw("/run") as other:
        assert ask(client, f"return many('{server.url('/echo')}', 5)") == f"3 2 {full}"
        ask(client, "for _, c in ipairs(ALL) do c:close() end return 1")
        nothing_left(server)
        tell(other, f"return dial('{upstream.url}')")
        pending = upstream.accept().ask()
        assert ask(client, f"return dial('{server.url('/echo')}'), dial('{server.url('/echo')}'), "
                           f"dial('{server.url('/echo')}')") == f"open open {full}"
        pending.close()
        assert other.text().startswith("the server closed")
        server.wait_metric(CLIENTS, 2)
        assert ask(client, f"return dial('{server.url('/echo')}'), dial('{server.url('/echo')}')") == f"open {full}"


def test_max_clients_0_turns_it_off(serve):
    server = serve(DIAL, max_clients=0)
    with server.raw("/run") as client:
        assert ask(client, f"return dial('{server.url('/echo')}')") == "too many connections (max_clients is 0)"


def test_clients_take_places_of_max_connections_but_are_not_refused_by_it(serve, upstream):
    server = serve(DIAL, max_connections=2)
    with server.raw("/run") as client:
        for _ in range(3):
            tell(client, f"return dial('{upstream.url}')")
            upstream.open()
            assert client.text() == "open"
        with server.raw() as refused:
            assert refused.response().status == 503


def test_reconnecting_from_on_close(serve, upstream):
    server = serve(DIAL + """
        N = 0
        function again(url)
          dial(url, {}, function(c) c:on_close(function(_, code)
            N = N + 1 log.info("client lost", code, N) again(url) end) end)
        end""")
    with server.raw("/run") as client:
        tell(client, f"again('{upstream.url}')")
        for i in range(1, 6):
            peer = upstream.open()
            peer.send_frame(CLOSE, close_payload(1000))
            peer.frame()
            peer.close()
            server.wait_log(f"client lost 1000 {i}")
        upstream.open()
        server.wait_metric(OPENED, 6)
        server.wait_metric(CLIENTS, 1)


# ---- reload ----


def script(name, more=""):
    return DIAL + f"NAME = '{name}' " + more


def retired(server, number):
    server.wait_log(f"stop of generation {number}")


STOP = " app.on_stop(function() log.info('stop of generation ' .. app.generation) end) "


@pytest.mark.parametrize("workers", [1, 2])
def test_at_a_reload_a_client_stays_with_the_old_code_and_is_closed_when_reload_drain_is_over(serve, upstream, workers):
    server = serve(script("one", STOP), workers=workers, reload_drain=0.5)
    clients = on_each_worker(server, workers)
    peers = []
    for client in clients:
        tell(client, f"""return dial('{upstream.url}', {{}}, function(c)
            c:on_text(function(c, text) c:send(text .. " for " .. NAME .. " " .. c.generation) end)
            c:on_close(function(c, code, reason)
              log.info("closed in " .. NAME, app.worker, code, reason, c.is_closed) end) end)""")
        peers.append(upstream.open())
        assert client.text() == "open"
    assert server.reload(script("two", STOP))
    server.wait_metric(MOVED, workers)
    for peer, client in zip(peers, clients):
        peer.send_frame(TEXT, "hello")
        assert peer.frame() == (TEXT, b"hello for one 1")
        assert ask(client, "return NAME") == "two"
    assert "stop of" not in server.log
    for i, peer in enumerate(peers, 1):
        peer.answer_close(1012, b"reloaded")
        server.wait_log(f"closed in one {i} 1012  true")
    server.wait_log("(?s)" + ".*".join(["stop of generation 1"] * workers))
    server.wait_metric(CLIENTS, 0)
    assert server.metrics()[MOVED] == workers  # those of /run


def test_a_client_that_ends_lets_the_old_code_retire_before(serve, upstream):
    server = serve(script("one", STOP))
    with server.raw("/run") as client:
        tell(client, f"return dial('{upstream.url}')")
        peer = upstream.open()
        assert client.text() == "open"
        assert server.reload(script("two", STOP))
        assert ask(client, "return NAME") == "two"
        peer.send_frame(CLOSE, close_payload(3000, b"bye"))
        server.wait_log("client closed <3000 bye>")
        retired(server, 1)


@pytest.mark.parametrize("stage", STAGES)
def test_an_attempt_that_waits_at_a_reload_is_finished_by_the_old_code(serve, upstream, stage):
    server = serve(script("one", STOP))
    with server.raw("/run") as client:
        tell(client, f"app.spawn(function() log.info('got', NAME, dial('{upstream.url}')) end) return 1")
        peer = reach(upstream, stage)
        assert client.text() == "1"
        assert server.reload(script("two", STOP))
        assert ask(client, "return NAME") == "two"
        if stage == "nothing":
            peer.ask()
        if stage == "part of the answer":
            finish_answer(peer, len(PART))
        else:
            peer.switch()
        server.wait_log("got one open")
        peer.send_frame(TEXT, "hello")
        server.wait_log("client text <hello>")
        peer.send_frame(CLOSE)
        server.wait_log("client closed <1005 >")
        retired(server, 1)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("owner", ["spawn", "handler"])
def test_an_attempt_that_waits_when_reload_drain_is_over_is_cancelled(serve, upstream, stage, owner):
    server = serve(script("one", STOP), reload_drain=0.2)
    with server.raw("/run") as client:
        call = f"dial('{upstream.url}')"
        tell(client, f"app.spawn(function() {call} end) return 1" if owner == "spawn" else f"return {call}")
        peer = reach(upstream, stage)
        assert server.reload(script("two", STOP))
        retired(server, 1)
        peer.expect_gone()
        nothing_left(server)
        assert owner == "handler" or client.text() == "1"
        assert ask(client, "return NAME") == "two"
        assert server.metrics()[CANCELLED] == 1


@pytest.mark.parametrize("again", ["again(url)", "app.spawn(again, url)",
                                   "app.after(0.001, function() again(url) end)"])
def test_a_client_that_reconnects_from_on_close_does_not_keep_the_old_code(serve, upstream, again):
    again = f"""
        function again(url)
          app.connect(url, function(c) log.info("connected in " .. app.generation)
            c:on_close(function(_, code) log.info("client lost", code) {again} end) end)
        end """
    server = serve(script("one", STOP + again), reload_drain=0.2)
    with server.raw("/run") as client:
        tell(client, f"again('{upstream.url}')")
        peer = upstream.open()
        server.wait_log("connected in 1")
        assert server.reload(script("two", STOP + again))
        peer.answer_close(1012, b"reloaded")
        server.wait_log("client lost 1012")
        retired(server, 1)
        nothing_left(server)
        assert ask(client, "return NAME") == ""


def test_a_server_that_does_not_answer_the_1012_does_not_keep_the_old_code(serve, upstream):
    server = serve(script("one", STOP), reload_drain=0.2, close_timeout=0.2)
    with server.raw("/run") as client:
        tell(client, f"return dial('{upstream.url}')")
        upstream.open()
        assert client.text() == "open"
        assert server.reload(script("two", STOP))
        server.wait_log("client closed <1006 >")
        retired(server, 1)


def test_a_function_that_waits_when_reload_drain_is_over_is_cancelled_and_its_client_closed(serve, upstream):
    server = serve(script("one", STOP), reload_drain=0.2)
    with server.raw("/run") as client:
        tell(client, f"return dial('{upstream.url}', {{}}, function(c) hear(c) pass('never') end)")
        peer = upstream.open()
        assert client.text() == "open"
        assert server.reload(script("two", STOP))
        peer.answer_close(1012, b"reloaded")
        server.wait_log("client closed <1012 >")
        retired(server, 1)
        nothing_left(server)


def test_a_client_with_a_subscription_still_gets_what_new_code_publishes_until_then(serve, upstream):
    server = serve(script("one", STOP), reload_drain=0.5)
    with server.raw("/run") as client:
        tell(client, f"return dial('{upstream.url}', {{}}, function(c) hear(c) c:subscribe('t') end)")
        peer = upstream.open()
        assert client.text() == "open"
        number = ask(client, "return C.id")
        assert server.reload(script("two", STOP))
        ask(client, f"app.publish('t', 'from ' .. NAME) app.send({number}, 'by id') return 1")
        assert [peer.frame(), peer.frame()] == [(TEXT, b"from two"), (TEXT, b"by id")]
        peer.answer_close(1012, b"reloaded")
        retired(server, 1)
        assert ask(client, "return app.subscribers('t')") == "0"


def test_many_reloads_with_clients(serve, upstream):
    dials = STOP + f"app.on_start(function() dial('{upstream.url}') end)"
    server = serve(script("0", dials), reload_drain=0.1)
    peer = upstream.open()
    for i in range(1, 8):
        server.wait_metric(OPENED, i)
        assert server.reload(script(str(i), dials))
        new = upstream.open()
        peer.answer_close(1012, b"reloaded")
        retired(server, i)
        peer = new
    server.wait_metric(CLIENTS, 1)


# ---- the end ----


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_stops_closes_its_clients_with_1001(serve, upstream, workers):
    server = serve(DIAL, workers=workers)
    peers = []
    for client in on_each_worker(server, workers):
        tell(client, f"return dial('{upstream.url}')")
        peers.append(upstream.open())
        assert client.text() == "open"
        client.close()
    server.send_signal(signal.SIGTERM)
    for peer in peers:
        peer.answer_close(1001, b"server is stopping")
    assert server.stop(None) == 0
    assert server.log.count("client closed <1001 >") == workers


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("workers", [1, 2])
def test_an_attempt_does_not_hold_up_the_stop(serve, upstream, stage, workers):
    server = serve(DIAL + START.format(when="on_start", url=upstream.url), workers=workers, drain_timeout=600,
                   connect_timeout=600)
    peers = [reach(upstream, stage) for _ in range(workers)]
    server.send_signal(signal.SIGTERM)
    assert server.stop(None) == 0
    for peer in peers:
        peer.expect_gone()


def test_a_function_that_waits_does_not_hold_up_the_stop(serve, upstream):
    server = serve(DIAL, drain_timeout=600)
    client = server.raw("/run")
    tell(client, f"return dial('{upstream.url}', {{}}, function(c) hear(c) pass('never') end)")
    peer = upstream.open()
    assert client.text() == "open"
    client.close()
    server.send_signal(signal.SIGTERM)
    peer.answer_close(1001, b"server is stopping")
    assert server.stop(None) == 0
    assert "client closed <1001 >" in server.log


@pytest.mark.parametrize("where", ["c:on_close(function() log.info('again', app.connect(URL, print)) end)",
                                   "app.on_stop"])
def test_connecting_while_the_server_stops_fails(serve, upstream, where):
    more = f"URL = '{upstream.url}' "
    if where == "app.on_stop":
        more += "app.on_stop(function() log.info('again', app.connect(URL, print)) end)"
        where = ""
    server = serve(DIAL + more)
    with server.raw("/run") as client:
        tell(client, f"return dial(URL, {{}}, function(c) {where} end)")
        peer = upstream.open()
        assert client.text() == "open"
    server.send_signal(signal.SIGTERM)
    peer.answer_close(1001, b"server is stopping")
    assert server.stop(None) == 0
    assert "again nil the server is stopping" in server.log


def test_two_signals_leave_at_once_with_open_clients_and_attempts(serve, upstream):
    server = serve(DIAL, drain_timeout=600, close_timeout=600)
    with server.raw("/run") as client:
        tell(client, f"dial('{upstream.url}') return dial('{upstream.url}')")
        upstream.open()
        upstream.accept().ask()
        server.send_signal(signal.SIGTERM)
        server.wait_log("stopping")
        server.send_signal(signal.SIGTERM)
        assert server.stop(None) == 0


# ---- what the pages show ----

ENDS = DIAL + """
app.websocket("/upper", function(ws)
  ws:send("welcome")
  ws:on_text(function(ws, text)
    if text == "bye" then return ws:close(3001, "so long") end
    for _ = 1, tonumber(text) or 0 do ws:send(("x"):rep(65536)) end
    ws:send(text:upper())
  end)
  ws:on_binary(function(ws, bytes) ws:send_binary(bytes:reverse()) end)
  ws:on_close(function(_, code, reason) log.info("end closed <" .. code .. " " .. reason .. ">") end)
end)
"""


def relay_to(serve, ends):
    text = (ROOT / "lua/examples/relay.lua").read_text(encoding="utf-8")
    text, changed = re.subn(r'= "ws://[^"]*"', f'= "{ends.url("/upper")}"', text)
    assert changed == 1
    return serve(text)


def test_the_relay_example_passes_on_what_both_say_and_how_they_end(serve):
    ends = serve(ENDS)
    relay = relay_to(serve, ends)
    with relay.raw("/relay") as visitor:
        visitor.send_frame(TEXT, "early")
        assert [visitor.text(), visitor.text()] == ["welcome", "EARLY"]
        visitor.send_frame(BINARY_OP, b"abc")
        assert visitor.frame() == (BINARY_OP, b"cba")
        visitor.send_frame(TEXT, "bye")
        assert visitor.frame() == (CLOSE, close_payload(3001, b"so long"))
        visitor.send_frame(CLOSE, close_payload(3001))
        visitor.expect_end()
    with relay.raw("/relay") as visitor:
        assert visitor.text() == "welcome"
        visitor.send_frame(CLOSE, close_payload(3002, b"enough"))
        visitor.expect_close(3002)
        ends.wait_log("end closed <3002 enough>")
    with relay.raw("/relay") as visitor:
        assert visitor.text() == "welcome"
        visitor.send_frame(CLOSE)
        visitor.expect_close(None)
        ends.wait_log("end closed <1000 >")
    with relay.raw("/relay") as visitor:
        assert visitor.text() == "welcome"
    ends.wait_log("end closed <1011 >")
    relay.wait_metric(CLIENTS, 0)
    ends.stop()
    with relay.raw("/relay") as visitor:
        assert visitor.frame() == (CLOSE, close_payload(1013, b"try again later"))
    relay.wait_log("upstream: connect to .*: Connection refused")


def test_the_relay_example_slows_down_who_sends_more_than_the_other_takes(serve):
    ends = serve(ENDS, send_limit="1g")
    relay = relay_to(serve, ends)
    with relay.raw("/relay") as visitor:
        assert visitor.text() == "welcome"
        visitor.send_frame(TEXT, "300")
        ends.wait_metric("tidewire_send_queue_bytes", lambda n: n > 1 << 20)
        for _ in range(300):
            assert visitor.text() == "x" * 65536
        assert visitor.text() == "300"
        assert relay.metrics()["tidewire_slow_consumers_closed_total"] == 0


def test_the_relay_example_lets_its_visitors_come_again_at_a_reload(serve):
    ends = serve(ENDS)
    relay = relay_to(serve, ends)
    with relay.raw("/relay") as visitor:
        assert visitor.text() == "welcome"
        assert relay.reload()
        assert visitor.frame()[1][:2] == close_payload(1012)
    relay.wait_metric(CLIENTS, 0)
    ends.wait_log("end closed <1012 >")


def test_the_loop_that_connects_again(serve, upstream):
    page = (ROOT / "lua/connect.md").read_text(encoding="utf-8")
    loop, = (code for code in re.findall(r"```lua\n(.*?)```", page, re.S) if "while app.shared" in code)
    loop = loop.replace("ws://127.0.0.1:9000/prices", upstream.url).replace("app.sleep(", "app.sleep(0.01 * ")
    server = serve(DIAL + loop)
    with server.raw("/run") as client:
        ask(client, "ws:subscribe('prices') return 1")
        upstream.accept().close()
        server.wait_log("prices: the server closed the connection without an answer")
        for text in "one", "two":
            peer = upstream.open(behind=frame(TEXT, text, mask=None))
            assert client.text() == text
            peer.send_frame(CLOSE, close_payload(3000))
            peer.close()
            server.wait_log("prices: closed with 3000")
        old = upstream.open()
        server.wait_metric(OPENED, 3)
        assert server.reload(DIAL + loop)  # the new code has one of its own, and closes the old one's
        new = upstream.open()
        assert old.frame()[:2] == (CLOSE, close_payload(1012))
        old.send_frame(CLOSE, close_payload(1012))
        old.close()
        server.wait_log("prices: closed with 1012")
        server.wait_metric(CLIENTS, 1)
        new.send_frame(TEXT, "three")
        assert client.text() == "three"


def test_clients_are_closed_after_the_visitors_who_are_told_in_slices(serve, upstream):
    server = serve(DIAL, drain_timeout=2)
    visitors = [server.raw("/echo") for _ in range(120)]
    with server.raw("/run") as client:
        tell(client, f"return dial('{upstream.url}')")
        peer = upstream.open()
        assert client.text() == "open"
    server.send_signal(signal.SIGTERM)
    peer.answer_close(1001, b"server is stopping")
    for visitor in visitors:
        assert select.select([visitor.sock], [], [], 0)[0]
        visitor.close()
    assert server.stop(None) == 0
