# SPDX-License-Identifier: MIT
"""Live connections move to new code at a reload: what they take along, when they move, and that nothing is lost."""
import re
import select
import signal
import socket
import threading

import pytest

from conftest import (BINARY_OP, CLOSE, CONT, PATIENCE, PING, PONG, TEXT, close_payload, frame)
from migrating import FAILED, MOVED, TOOLS, ask, code, move, on_each_worker, served_by, tell

HELLO = 'ws:send(table.concat({"hello", NAME, tostring(ws.migrated), ws.generation, app.generation}, " "))'


# ---- moving ----


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_quiet_connections_move_by_themselves(serve, workers):
    server = serve(code("one", HELLO), workers=workers)
    clients = [server.raw("/run") for _ in range(10 * workers)]
    for client in clients:
        assert client.text() == "hello one false 1 1"
    assert server.reload(code("two", HELLO))
    for client in clients:
        assert client.text() == "hello two true 2 2"
    assert [served_by(client) for client in clients] == ["two 2"] * len(clients)
    metrics = server.metrics()
    assert (metrics[MOVED], metrics[FAILED]) == (len(clients), 0)
    with server.raw("/run") as new:
        assert new.text() == "hello two false 2 2"


def test_they_move_at_every_reload(serve):
    server = serve(code("v1"), workers=2)
    with server.raw("/run") as client:
        number = ask(client, "return ws.id")
        for i in range(2, 20):
            move(server, code(f"v{i}"), i - 1)
            assert ask(client, "return NAME, ws.generation, ws.id") == f"v{i} {i} {number}"


def test_a_refused_reload_moves_nobody(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        for text in ("x = = 1", "error('no')", code("two") + "app.websocket('/run', print)"):
            assert not server.reload(text)
            assert served_by(client) == "one 1"
        assert server.metrics()[MOVED] == 0


# ---- what they take along ----


def test_the_state_is_copied_by_value(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        assert ask(client, """
            ws.state.a = {b = {1, 2, {c = true}}, [5] = 'five', [2.5] = 'x', [true] = 'yes', big = 9007199254740993,
                          real = 1.0, null = json.null, list = json.array(), bin = '\\0\\255', no = false}
            ws.state.n = math.mininteger ws.state.text = 'é'""") == ""
        move(server, code("two"), 1)
        assert ask(client, """
            local a, s = ws.state.a, ws.state
            return NAME, #a.b, a.b[3].c, a[5], a[2.5], a[true], math.type(a.big), a.big, a.real, a.null == json.null,
                   json.encode(a.list), a.bin == '\\0\\255', a.no, s.n == math.mininteger, s.text""") == \
            "two 3 true five x yes integer 9007199254740993 1.0 true [] true false true é"
        assert ask(client, "ws.state.a = nil ws.state.own = NAME") == ""
        move(server, code("three"), 2)
        assert ask(client, "return NAME, ws.state.a, ws.state.own, ws.state.text") == "three nil two é"


def test_a_connection_without_state_gets_an_empty_one(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        move(server, code("two"), 1)
        assert ask(client, "return NAME, type(ws.state), next(ws.state)") == "two table nil"


def test_the_state_is_there_when_the_routes_function_runs(serve):
    arrive = "ws.state.n = (ws.state.n or 0) + 1 ws:send('n ' .. ws.state.n)"
    server = serve(code("one", arrive))
    with server.raw("/run") as client:
        assert client.text() == "n 1"
        for i in range(2, 6):
            assert server.reload()
            assert client.text() == f"n {i}"


def test_what_is_not_plain_data_stays_behind_and_is_logged_with_its_path(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        ask(client, """local s = ws.state
            s.keep, s.f, s.users = 1, print, {{name = 'ann'}, {name = 'ben', talk = function() end}}
            s.own = ws s.co = coroutine.create(print) s.meta = setmetatable({}, {__index = {}}) s.self = s
            s.users[ws] = 1 ws.request.context.g = print ws.request.context.kept = 'yes'""")
        move(server, code("two"), 1)
        line = server.wait_log(r"warn .*left behind in generation 1: .*ws\.state.*").group(0)
        for part in (r"ws\.state\.f is a function", r"ws\.state\.users\[2\]\.talk is a function",
                     r"ws\.state\.own is a userdata", r"ws\.state\.co is a thread", r"ws\.state\.meta has a metatable",
                     r"ws\.state\.self is a table that contains itself", r"ws\.state\.users has a userdata as a key"):
            assert re.search(part, line), line
        server.wait_log(r"warn .*left behind in generation 1: req\.context\.g is a function")
        assert ask(client, """local s = ws.state return NAME, s.keep, s.f, s.users[1].name, s.users[2].name,
            s.users[2].talk, s.own, s.co, s.meta, s.self, ws.request.context.g, ws.request.context.kept""") == \
            "two 1 nil ann ben nil nil nil nil nil nil yes"


CONTEXT = 'should_upgrade = function(req) log.info("asked in", NAME) req.context.user = {name = "ann"} return true end'


def test_the_context_is_copied_and_nobody_is_asked_again(serve):
    middleware = 'app.use(function(req, next) log.info("middleware of", NAME) req.context.n = {7} return next(req) end)'
    server = serve(code("one", before=middleware, options=CONTEXT))
    no = 'should_upgrade = function(req) log.info("asked in", NAME) return false end'
    with server.raw("/run") as client:
        assert ask(client, "req.context.late = 'set in a handler' return req.context.user.name") == "ann"
        move(server, code("two", before=middleware, options=no), 1)
        look = "return NAME, req.context.user.name, req.context.n[1], req.context.late, ws.request == req"
        assert ask(client, look) == "two ann 7 set in a handler true"
        move(server, code("three", before=middleware, options=no), 2)
        assert ask(client, look) == "three ann 7 set in a handler true"
    server.wait_log("closed in three")
    assert re.findall(r"(?:asked in|middleware of) \w+", server.log) == ["middleware of one", "asked in one"]


def test_what_the_routes_function_leaves_in_the_context_is_copied_too(serve):
    server = serve(code("one", "if not ws.migrated then req.context.seat = 4 end"))
    with server.raw("/run") as client:
        assert ask(client, "return req.context.seat") == "4"
        move(server, code("two"), 1)
        assert ask(client, "return NAME, req.context.seat") == "two 4"


LOOK = """local p = {} for k, v in pairs(req.params) do p[#p + 1] = k .. '=' .. v end table.sort(p)
    return req.method, req.path, table.concat(p, ','), req.query.q, req.query_string, req.headers['X-Some'],
           req.cookies.c, req.id, ws.id, ws.params == nil, ws.remote_address, ws.protocol, ws.request.path"""


@pytest.mark.parametrize("pattern, params", [
    ("/room/:name/:seat", "name=blue,seat=7"), ("/:kind/:id/7", "id=blue,kind=room"), ("/room/**", "**=blue/7"),
    ("/room/*/:other", "*=blue,other=7"), ("/**", "**=room/blue/7")])
def test_the_request_stays_and_its_params_are_those_of_the_new_pattern(serve, pattern, params):
    server = serve(code("one", path="/room/:name/:seat", options="protocols = {'b', 'a'}"))
    with server.raw("/room/blue/7?q=1&q=2", x_some="thing", cookie="c=d", sec_websocket_protocol="a, b, c") as client:
        before = ask(client, LOOK).split()
        assert before[2] == "name=blue,seat=7" and before[11] in ("a", "b")
        move(server, code("two", path=pattern, options="protocols = {'z'}"), 1)
        after = ask(client, LOOK.replace("return", "return NAME,")).split(" ")
        assert after[0] == "two"
        assert after[3] == params
        del after[3], after[0], before[2]
        assert after == before


def test_the_most_specific_route_of_the_new_code_takes_over(serve):
    server = serve(code("one", path="/a/:x"))
    other = 'app.websocket("/a/:x", function(ws) ws:send("general") end)'
    with server.raw("/a/b") as client, server.raw("/a/c") as second:
        assert server.reload(code("two", "ws:send('special')", before=other, path="/a/b"))
        assert (client.text(), second.text()) == ("special", "general")


def test_handlers_of_the_old_code_are_not_called_any_more(serve):
    every = "".join(f"ws:on_{event}(function() log.info('old {event}') end)\n"
                    for event in ("text", "binary", "ping", "pong", "close", "drain"))
    server = serve(f"app.websocket('/run', function(ws) {every} end)")
    with server.raw("/run") as client:
        client.send_frame(PING, b"before")
        assert client.frame() == (PONG, b"before")
        server.wait_log("old ping")
        mark = server.mark()
        move(server, "app.websocket('/run', function(ws) ws:on_text(function(ws) ws:send('new') end) end)", 1)
        client.send_frame(BINARY_OP, b"x")
        client.send_frame(PING, b"x")
        assert client.frame() == (PONG, b"x")
        client.send_frame(PONG, b"x")
        assert ask(client, "x") == "new"
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    server.wait_metric("tidewire_websockets", 0)
    server.stop()
    assert "old ping" in server.log
    assert not re.search("old (text|binary|ping|pong|close|drain)", "\n".join(server.lines[mark:]))


def test_all_handlers_of_the_new_code_are_called(serve):
    server = serve("app.websocket('/run', print)")
    every = "".join(f"ws:on_{event}(function(ws, x) log.info('new {event}', x) end)\n"
                    for event in ("text", "binary", "ping", "pong", "close"))
    with server.raw("/run") as client:
        move(server, f"app.websocket('/run', function(ws) {every} end)", 1)
        for opcode in (TEXT, BINARY_OP, PING, PONG):
            client.send_frame(opcode, b"hi")
        assert client.frame() == (PONG, b"hi")
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    server.wait_log("new text hi(.|\n)*new binary hi(.|\n)*new ping hi(.|\n)*new pong hi(.|\n)*new close 1000")


# ---- bytes on their way ----


@pytest.mark.parametrize("cut", [1, 3, 5, 8, 9, 10, 14])
def test_a_frame_that_is_cut_by_the_reload_is_one_message_of_the_new_code(serve, cut):
    server = serve(code("one"))
    whole = frame(TEXT, "return NAME, 'éé'" + " " * 200)
    with server.raw("/run") as client:
        server.send_apart(client, whole[:cut])
        move(server, code("two"), 1)
        server.send_apart(client, whole[cut:-1])
        move(server, code("three"), 2)
        client.send(whole[-1:])
        assert client.text() == "three éé"


def test_fragments_before_and_after_reloads_are_one_message(serve):
    server = serve(code("one"))
    text = "return NAME, 'é'".encode()
    with server.raw("/run") as client:
        server.send_apart(client, frame(TEXT, text[:14], fin=False))  # ends within the letter
        move(server, code("two"), 1)
        server.send_apart(client, frame(CONT, text[14:15], fin=False))
        client.send_frame(PING, b"between")
        assert client.frame() == (PONG, b"between")
        move(server, code("three"), 2)
        client.send_frame(CONT, text[15:])
        assert client.text() == "three é"
        assert server.metrics()["tidewire_reassembly_bytes"] == 0


def test_what_waits_to_be_sent_is_sent(serve):
    server = serve(code("one"), send_limit="64m")
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    with server.wrap(sock).upgrade("/run") as client:
        tell(client, """for i = 1, 200 do ws:send(i .. ('x'):rep(65536)) end
            ws:send('end', function(ok, why) log.info('sent', ok, why) end) return NAME""")
        server.wait_metric("tidewire_send_queue_bytes", lambda n: n > 1 << 20)
        for i in range(2, 5):
            move(server, code(f"v{i}"), i - 1)
        tell(client, "return NAME")
        for i in range(1, 201):
            assert client.text() == f"{i}" + "x" * 65536
        assert [client.text() for _ in range(3)] == ["end", "one", "v4"]
        server.wait_log("sent true nil")  # told in the code that sent it


@pytest.mark.parametrize("workers", [1, 2])
def test_subscriptions_survive_and_publish_works_right_after(serve, workers):
    server = serve(code("one"), workers=workers)
    clients = on_each_worker(server, workers)
    for client in clients:
        assert ask(client, "return ws:subscribe('news'), app.subscribers('news') > 0") == "true true"
    ask(clients[0], "ws:subscribe('own')")
    move(server, code("two", "if ws.migrated then ws:publish('news', 'arrived') end"), workers)
    for client in clients:
        for _ in range(workers - 1):
            assert client.text() == "arrived"
        assert ask(client, "return NAME, app.subscribers('news')") == f"two {workers}"
    tell(clients[-1], "app.publish('news', 'again') app.publish('own', 'mine')")
    assert clients[0].text() == "again"
    texts = {clients[0].text() for _ in range(2 if workers == 1 else 1)}
    assert "mine" in texts
    ask_until(clients[-1], "again" if workers > 1 else "")
    tell(clients[0], "ws:unsubscribe('news') return app.subscribers('own')")
    assert clients[0].text() == "1"
    for client in clients:
        client.close()
    server.wait_metric("tidewire_subscriptions", 0)


def ask_until(client, *texts):
    """Takes these messages, in any order."""
    left = [text for text in texts if text]
    while left:
        left.remove(client.text())


def test_a_moved_connection_is_found_by_its_id(serve):
    server = serve(code("one"), workers=2)
    first, second = on_each_worker(server, 2)
    ids = [ask(client, "return ws.id") for client in (first, second)]
    move(server, code("two"), 2)
    assert ask(first, f"return app.send({ids[1]}, 'over there')") == "true"
    assert second.text() == "over there"
    tell(second, f"app.send({ids[1]}, 'here') return app.close({ids[0]}, 3001, 'bye')")
    assert [second.text(), second.text()] == ["here", "true"]
    assert first.frame() == (CLOSE, close_payload(3001, b"bye"))
    first.send_frame(CLOSE, close_payload(3001))
    first.expect_end()
    server.wait_log("closed in two 2 3001")


def test_every_of_the_new_code_reaches_those_who_have_moved(serve):
    server = serve(code("one", "app.every(0.001, function() ws:send(NAME) end)"))
    with server.raw("/run") as client:
        assert client.text() == "one"
        move(server, code("two", "app.every(0.001, function() ws:send(NAME) end)"), 1)
        while client.text() == "one":
            pass
        assert [client.text() for _ in range(5)] == ["two"] * 5
        server.wait_metric("tidewire_timers", 1)


# ---- nothing is lost ----

COUNT = TOOLS + """
NAME = "{name}"
app.websocket("/run", function(ws, req)
  ws:subscribe("t")
  local function count(ws, text)
    local n = (ws.state.n or 0) + 1
    ws.state.n = n
    if n % 10 == {wait} then app.sleep(0) end
    ws:send(("%d %d %s"):format(app.generation, n, text))
    if n % 50 == 0 then ws:publish("t", "p " .. ws.id .. " " .. n) end
  end
  ws:on_text(count)
  ws:on_binary(count)
end)
"""


class Flood:
    """A client that sends numbered messages of all kinds, some ahead of the answers."""

    TOTAL = 1500

    def __init__(self, server):
        self.client = server.raw("/run")
        self.answers, self.published, self.fault = 0, {}, None
        self.generations = []
        self.threads = [threading.Thread(target=self.send), threading.Thread(target=self.read)]
        self.room = threading.Semaphore(64)

    def start(self):
        for thread in self.threads:
            thread.start()

    def send(self):
        for i in range(1, self.TOTAL + 1):
            if not self.room.acquire(timeout=PATIENCE):
                return
            text = f"{i}"
            if i % 3 == 0:
                self.client.send(frame(TEXT, text[:1], fin=False) + frame(PING, text) + frame(CONT, text[1:]))
            else:
                self.client.send_frame(BINARY_OP if i % 3 == 1 else TEXT, text)

    def read(self):
        try:
            while self.answers < self.TOTAL:
                opcode, payload = self.client.frame()
                if opcode == PONG:
                    continue
                assert opcode == TEXT, (opcode, payload)
                self.take(payload.decode().split())
        except Exception as fault:  # told to the test by finish
            self.fault = fault

    def take(self, words):
        if words[0] == "p":
            last = self.published.get(words[1], 0)
            assert int(words[2]) == last + 50, (words, last)
            self.published[words[1]] = last + 50
            return
        self.answers += 1
        assert words[1:] == [f"{self.answers}"] * 2, (words, self.answers)
        if not self.generations or self.generations[-1] != int(words[0]):
            self.generations.append(int(words[0]))
        self.room.release()

    def finish(self):
        for thread in self.threads:
            thread.join(PATIENCE)
        assert self.fault is None, self.fault
        assert self.answers == self.TOTAL
        assert self.generations == sorted(self.generations), "a generation went backwards"
        return self.generations


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_in_a_flood_of_messages_and_reloads_nothing_is_lost_doubled_or_reordered(serve, workers):
    server = serve(COUNT.format(name="v1", wait=5), workers=workers)
    floods = [Flood(server) for _ in range(6)]
    for flood in floods:
        flood.start()
    number, broken = 1, 0
    while any(flood.answers < Flood.TOTAL and flood.fault is None for flood in floods):
        if number % 3 == 0 and broken < number // 3:
            broken += 1
            assert not server.reload("x = = 1")
        number += 1
        assert server.reload(COUNT.format(name=f"v{number}", wait=number % 11))
    seen = [flood.finish() for flood in floods]
    assert max(len(generations) for generations in seen) > 1, "no reload came in between"
    assert server.metrics()["tidewire_websockets"] == len(floods)
    assert server.metrics()[FAILED] == 0
    for flood in floods:
        flood.client.close()


def test_signals_while_connections_move(serve):
    arrive = "spin(0.003) ws.state.n = (ws.state.n or 0) + 1"
    server = serve(code("v1", arrive), workers=2)
    clients = [server.raw("/run") for _ in range(20)]
    for i in range(2, 8):
        server.script.write_text(code(f"v{i}", arrive), encoding="utf-8")
        server.send_signal(signal.SIGHUP)
        server.wait_log(f"generation {i} serves new connections")
    for client in clients:
        name, generation, n = ask(client, "return NAME, ws.generation, ws.state.n").split()
        assert (name, generation) == ("v7", "7") and 2 <= int(n) <= 7
    server.wait_metric(MOVED, sum(int(ask(client, "return ws.state.n")) - 1 for client in clients))
    assert all(not select.select([client.sock], [], [], 0)[0] for client in clients), "somebody was told something"


@pytest.mark.parametrize("wait", [
    "app.sleep(0)", "local p = app.promise() app.after(0.001, function() p:resolve() end) p:await()"])
def test_a_message_waits_until_the_routes_function_of_the_new_code_is_through(serve, tmp_path, wait):
    """Also when it is the message that makes the connection move, before the sweep has come to it."""
    gate = tmp_path / "gate"
    server = serve(code("one"))
    clients = [server.raw("/run") for _ in range(12)]
    assert [served_by(client) for client in clients] == ["one 1"] * 12
    hold = f"app.on_start(function() log.info('held') while not exists('{gate}') do end end)"
    server.script.write_text(code("two", f"spin(0.005) {wait}", before=hold), encoding="utf-8")
    server.send_signal(signal.SIGHUP)
    server.wait_log("held")
    for client in clients:
        tell(client, "return NAME, ws.generation")
    gate.touch()
    assert [client.text() for client in clients] == ["two 2"] * 12


# ---- limits ----


def test_the_limits_of_the_new_route_hold(serve):
    server = serve(code("one", options="max_message = 100"))
    with server.raw("/run") as client, server.raw("/run") as other:
        move(server, code("two", options="max_message = 1000"), 2)
        assert ask(client, "return NAME" + " " * 500) == "two"
        move(server, code("three", options="max_message = 60"), 4)
        assert ask(other, "return NAME") == "three"
        tell(client, " " * 61)
        client.expect_close(1009)


@pytest.mark.parametrize("there", [61, 5000])
def test_a_message_that_has_begun_is_held_to_the_new_limit_too(serve, there):
    server = serve(code("one", options="max_message = 6000"))
    with server.raw("/run") as client:
        server.send_apart(client, frame(TEXT, " " * there, fin=False))
        move(server, code("two", options="max_message = 60"), 1)
        client.send_frame(CONT, " " * 10, fin=False)
        client.expect_close(1009)


def test_the_new_rate_of_messages_holds(serve):
    other = code("free", path="/free").replace(TOOLS, "")
    server = serve(code("one") + other)
    with server.raw("/run") as client:
        assert [ask(client, "return NAME") for _ in range(20)] == ["free"] * 20
        move(server, code("two", options="messages_per_second = 0.001") + other, 1)
        assert ask(client, "return ws.generation") == "2"
        for _ in range(3):
            tell(client, "log.info('too soon')")
        settle(server)
        assert "too soon" not in server.log


@pytest.mark.parametrize("options", ["", "messages_per_second = 1e6"])
def test_who_was_over_the_rate_goes_on_when_the_new_code_allows_it(serve, options):
    server = serve(code("one", options="messages_per_second = 0.001"))
    with server.raw("/run") as client:
        for _ in range(3):
            tell(client, "return NAME")
        assert client.text() == "one"
        move(server, code("two", options=options), 1)
        assert [client.text(), client.text()] == ["two", "two"]


def settle(server):
    """All that the server had to do with what it has received is done."""
    with server.raw("/free") as other:
        for _ in range(3):
            assert ask(other, "return 1") == "1"


@pytest.mark.parametrize("set_it, expected", [("", "0.1"), ("ws.ping_interval = 600", "600.0"),
                                              ("ws.ping_interval = nil", "nil")])
def test_the_new_ping_interval_holds_unless_the_script_has_set_one(serve, set_it, expected):
    server = serve(code("one", options="ping_interval = 3600"))
    with server.raw("/run") as client:
        ask(client, set_it)
        move(server, code("two", options="ping_interval = 0.1"), 1)
        assert ask(client, "return ws.ping_interval") == expected
        if set_it == "":
            assert client.frame() == (PING, b"")


def test_pings_go_on_in_the_new_code_and_a_silent_peer_is_cut(serve):
    server = serve(code("one", options="ping_interval = 0.2"))
    with server.raw("/run") as client:
        move(server, code("two", options="ping_interval = 0.2"), 1)
        assert client.frame() == (PING, b"")
        client.expect_end()
    server.wait_log("closed in two 2 1006")


# ---- what does not move ----


def test_a_connection_whose_route_has_gone_closes_with_1012_in_the_old_code(serve):
    server = serve(code("one", path="/gone") + code("one", path="/stays").replace(TOOLS, ""))
    with server.raw("/gone") as client, server.raw("/stays") as other:
        assert server.reload(code("two", path="/stays"))
        opcode, payload = client.frame()
        assert (opcode, payload[:2]) == (CLOSE, close_payload(1012))
        client.send_frame(CLOSE, close_payload(1012))
        client.expect_end()
        server.wait_log("closed in one 1 1012")
        assert served_by(other) == "two 2"
        assert server.metrics()[FAILED] == 0


def test_a_route_that_is_for_requests_now_is_gone_for_websockets(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        assert server.reload("app.get('/run', function() return 'x' end)")
        assert client.frame()[1][:2] == close_payload(1012)


def test_a_closing_connection_stays_and_its_on_close_runs_in_its_code(serve):
    server = serve(code("one"), close_timeout=3600)
    with server.raw("/run") as client, server.raw("/run") as other:
        assert ask(other, "return NAME") == "one"
        tell(client, "ws:close(3000, 'bye')")
        assert client.frame() == (CLOSE, close_payload(3000, b"bye"))
        move(server, code("two"), 1)
        assert served_by(other) == "two 2"
        client.send_frame(CLOSE, close_payload(3000))
        client.expect_end()
        server.wait_log("closed in one 1 3000")
        assert server.metrics()[MOVED] == 1
