# SPDX-License-Identifier: MIT
"""Who becomes a WebSocket and on what terms: should_upgrade, subprotocols, origins and the options of a route."""
import asyncio
import re
import signal
import socket
import struct
import threading

import pytest
import websockets

from conftest import CLOSE, CONT, PING, PONG, TEXT, Raw, close_payload, frame, run

ECHO = "function(ws) ws:on_text(function(ws, text) ws:send(text) end) end"
HELLO = frame(TEXT, "hello")


def gates(verdict, route=ECHO):
    """/now returns the verdict at once, /later when it has slept."""
    return f"""app.websocket("/now", {{should_upgrade = function(req)
  return {verdict}
end}}, {route})
app.websocket("/later", {{should_upgrade = function(req)
  app.sleep(0)
  return {verdict}
end}}, {route})"""


def knock(server, path, **headers):
    """The answer to a handshake: status, header lines in order, body. A refusal is the last thing that comes."""
    with server.raw() as client:
        client.handshake(path, **headers)
        start, *lines = client.until(b"\r\n\r\n").decode("latin-1")[:-4].split("\r\n")
        status = int(start.split()[1])
        if status == 101:
            client.send(HELLO)
            assert client.text() == "hello"
            return status, lines, b""
        body = client.take(int(dict(line.lower().split(": ", 1) for line in lines)["content-length"]))
        client.expect_end()
        return status, lines, body


def field(lines, name):
    return [line.split(": ", 1)[1] for line in lines if line.lower().startswith(name.lower() + ":")]


def refusal(text, tmp_path):
    """What `tidewire check` says of a script that must not load."""
    script = tmp_path / "main.lua"
    script.write_text(text)
    done = run("check", script)
    assert done.returncode == 1, done.stderr
    return done.stderr


# ---- verdicts ----

ACCEPTING = {
    "true": [],
    "true, 404, 'not looked at'": [],
    "{}": [],
    "{['X-Room'] = 'blue'}": ["X-Room: blue"],
    "{['x-room'] = ''}": ["x-room: "],
    "{a = 5, b = 1.5}": ["a: 5", "b: 1.5"],
    "{['Set-Cookie'] = {'a=1', 'b=2', 3}}": ["Set-Cookie: a=1", "Set-Cookie: b=2", "Set-Cookie: 3"],
    "{['X-None'] = {}}": [],
    r"{['X-Bytes'] = 'caf\xe9\tbar, \"x\"'}": ['X-Bytes: caf\xe9\tbar, "x"'],
    "{['X-Long'] = ('x'):rep(16000)}": ["X-Long: " + "x" * 16000],
}


@pytest.mark.parametrize("verdict", ACCEPTING)
def test_true_and_a_table_of_headers_accept(serve, verdict):
    server = serve(gates(verdict))
    for path in ("/now", "/later"):
        status, lines, _ = knock(server, path)
        assert (status, len(lines)) == (101, 3 + len(ACCEPTING[verdict]))
        assert sorted(lines[3:]) == sorted(ACCEPTING[verdict])
        if "Set-Cookie" in verdict:
            assert lines[3:] == ACCEPTING[verdict]
    assert server.metrics()["tidewire_upgrades_total"] == 2


REFUSING = {
    "false": (403, "403 Forbidden\n", []),
    "false, nil, nil, nil": (403, "403 Forbidden\n", []),
    "false, 401": (401, "401 Unauthorized\n", []),
    "false, 401.0, 'who are you?'": (401, "who are you?", []),
    "false, 302, '', {Location = '/login'}": (302, "302 Found\n", ["Location: /login"]),
    "false, 401, 'no', {['WWW-Authenticate'] = {'Basic', 'Bearer'}}":
        (401, "no", ["WWW-Authenticate: Basic", "WWW-Authenticate: Bearer"]),
    "false, 300, 'a'": (300, "a", []),
    "false, 599, 'z'": (599, "z", []),
    r"false, 429, 'na\xc3\xafve\0\r\n\r\nHTTP/1.1'": (429, "na\xefve\0\r\n\r\nHTTP/1.1", []),
    "false, 503, ('x'):rep(3000000)": (503, "x" * 3000000, []),
}


@pytest.mark.parametrize("verdict", REFUSING)
def test_false_refuses_with_an_answer(serve, verdict):
    server = serve(gates(verdict))
    status, body, more = REFUSING[verdict]
    for path in ("/now", "/later"):
        got, lines, text = knock(server, path)
        assert (got, text.decode()) == (status, body)
        assert field(lines, "Connection") == ["close"] and field(lines, "Sec-WebSocket-Accept") == []
        assert [line for line in lines if line in more] == more
    metrics = server.metrics()
    assert metrics['tidewire_upgrades_refused_total{reason="script"}'] == 2
    assert metrics["tidewire_upgrades_total"] == 0


@pytest.mark.parametrize("verdict", ["false, 304", "false, 304, 'surplus'"])
def test_a_304_has_no_body(serve, verdict):  # RFC 9110, 15.4.5; RFC 9112, 6.3
    server = serve(gates(verdict))
    with server.raw() as client:
        client.handshake("/now")
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 304 ")
        client.expect_end()


OWN = ["Connection", "upgrade", "Sec-WebSocket-Accept", "sec-websocket-extensions", "Content-Length",
       "Content-Type", "Transfer-Encoding", "Date", "Trailer"]
INVALID = {
    **{verdict: f"returned {kind}" for verdict, kind in {"nil": "nil", "": "nil", "5": "number", "'yes'": "string",
                                                         "print": "function", "req": "userdata"}.items()},
    **{f"false, {status}": f"{status} is not a status" for status in (200, 101, 99, 600, -1)},
    "false, 401.5": "401.5 is not a status",
    "false, 'four'": "four is not a status",
    "false, 401, {}": "the body is a table, not a string",
    r"false, 401, 'caf\xe9'": "the body is not UTF-8",
    "false, 401, 'no', 'Location: /'": "headers are a string",
    "false, 302, '', {Connection = 'keep-alive'}": "header Connection is the server's own",
    r"false, 302, '', {Location = '/\r\nX-Evil: 1'}": "header Location has a control character",
    "{[1] = 'X-A: b'}": "name is a string, not a number",
    "{[true] = 'b'}": "name is a string, not a boolean",
    **{f"{{['{name}'] = 'b'}}": "is not a name for a header"
       for name in ("", "a b", "a:", r"a\r\nX-Evil: 1", r"a\0b", r"caf\xc3\xa9")},
    r"{a = 'b\r\nX-Evil: 1'}": r"header a has a control character \(byte 13\)",
    **{rf"{{a = {{'fine', 'b\x{byte:02x}c'}}}}": f"byte {byte}" for byte in (0, 10, 13, 127)},
    **{f"{{a = {value}}}": f"header a is a {kind}"
       for value, kind in (("true", "boolean"), ("{{}}", "table"), ("{nil, 'b'}", "nil"))},
    "{a = ('x'):rep(20000)}": "more than 16384 bytes",
    "(function() local t = {} for i = 1, 3000 do t['x' .. i] = i end return t end)()": "more than 16384 bytes",
    **{f"{{['{name}'] = 'x'}}": f"header {name} is the server's own" for name in OWN},
    "{['Sec-WebSocket-Protocol'] = 'chat'}": "use the route's option protocols",
}


@pytest.mark.parametrize("verdict", INVALID)
def test_any_other_verdict_is_a_500_and_a_line_in_the_log(serve, verdict):
    server = serve(gates(verdict))
    for path in ("/now", "/later"):
        start = server.mark()
        status, lines, body = knock(server, path)
        assert (status, body) == (500, b"500 Internal Server Error\nThe server's script failed.\n")
        assert field(lines, "X-Evil") == field(lines, "a") == []
        line = 1 if path == "/now" else 4
        said = server.wait_log(r"error +\[worker 1, connection \d+, " + path + r"\] (.*)", start).group(1)
        assert f"main.lua:{line}" in said, said
        server.wait_log(INVALID[verdict], start)
    metrics = server.metrics()
    assert metrics['tidewire_upgrades_refused_total{reason="script"}'] == 2
    assert metrics['tidewire_handler_errors_total{reason="error"}'] == 2


FAILING = {
    "error('boom')": "main.lua:[26]: boom",
    "error({})": "table",
    "(nil)()": "main.lua:[26]: attempt to call a nil value",
    "req.nothing": "main.lua:[26]: req has no method or field 'nothing'",
    "req.haeders": "main.lua:[26]: req has no method or field 'haeders'; did you mean 'headers'?",
    "(function() req.user = 'ann' end)()": "main.lua:[26]: req.user cannot be set",
    "coroutine.wrap(function() app.sleep(0) error('inside') end)()": "main.lua:[26]: inside",
}


@pytest.mark.parametrize("verdict", FAILING)
def test_an_error_is_a_500_and_a_traceback(serve, verdict):
    server = serve(gates(verdict))
    for path in ("/now", "/later"):
        start = server.mark()
        assert knock(server, path)[0] == 500
        server.wait_log(FAILING[verdict] + r"[^\0]*stack traceback:", start)
    assert server.metrics()['tidewire_handler_errors_total{reason="error"}'] == 2


@pytest.mark.parametrize("body", ["while true do end", "pcall(function() while true do end end)",
                                  "setmetatable({}, {__len = function() while true do end end})"])
def test_an_endless_loop_is_cut(serve, body):
    server = serve(gates(f"(function() {body} return true end)()" if "while" in body[:6] else
                         f"(function() local x = {body} return {{a = x}} end)()"), handler_budget=0.1)
    for path in ("/now", "/later"):
        start = server.mark()
        assert knock(server, path)[0] == 500
        server.wait_log("handler_budget", start)
    assert server.metrics()['tidewire_handler_errors_total{reason="budget"}'] == 2


# Requests that are answered without it: arguments of the handshake, the status.
UNASKED = {
    "no key": ({"sec_websocket_key": None}, 400),
    "a bad key": ({"sec_websocket_key": "short"}, 400),
    "a wrong version": ({"sec_websocket_version": "8"}, 426),
    "no connection": ({"connection": "close"}, 400),
    "a body": ({"content_length": "5"}, 400),
    "bad offers": ({"sec_websocket_protocol": "a b"}, 400),
    "a strange page": ({"origin": "https://evil.example"}, 403),
    "no upgrade": ({"upgrade": None}, 426),
}


@pytest.mark.parametrize("case", UNASKED)
def test_it_is_asked_only_when_the_handshake_is_sound(serve, case):
    server = serve(gates("log.info('asked') or true"))
    headers, status = UNASKED[case]
    assert knock(server, "/now", **headers)[0] == status
    assert knock(server, "/now")[0] == 101
    server.wait_log("asked")
    assert server.log.count("asked") == 1


@pytest.mark.parametrize("method, more, status", [
    ("HEAD", "", 426), ("POST", "", 405), ("HEAD", "Upgrade: websocket\nConnection: Upgrade\n", 400),
    ("POST", "Upgrade: websocket\nConnection: Upgrade\n", 400)])
def test_other_methods_are_not_asked_for(serve, method, more, status):
    server = serve(gates("log.info('asked') or true"))
    with server.raw() as client:
        assert client.request(f"{method} /now HTTP/1.1\nHost: localhost\n{more}\n").status == status
        if status != 405:
            client.expect_end()
    assert knock(server, "/now")[0] == 101
    server.wait_log("asked")
    assert server.log.count("asked") == 1


# ---- waiting ----

# A client of /wait gets the verdict that a client of /decide sends as Lua code.
WAIT = """
app.websocket("/wait", {should_upgrade = function(req)
  local left <close> = setmetatable({}, {__close = function() log.info("left") end})
  waiting = app.promise()
  log.info("waiting in generation", app.generation)
  return table.unpack(waiting:await())
end}, function(ws)
  ws:on_text(function(ws, text) ws:send(app.generation .. text) end)
end)
app.websocket("/decide", function(ws)
  ws:on_text(function(ws, code)
    if code ~= "" then waiting:resolve({load("return " .. code)()}) end
    ws:send("decided")
  end)
end)
"""


def opening(path):
    """The bytes of a handshake."""
    sent, client = [], Raw.__new__(Raw)
    client.send = sent.append
    client.handshake(path)
    return sent[0].encode()


class Waiting:
    """A client whose handshake waits, and another that decides about it."""

    def __init__(self, serve, early=b"", **options):
        self.server = serve(WAIT, **options)
        self.judge = self.server.raw("/decide")
        self.client = self.knock(early)

    def knock(self, early):
        client, start = self.server.raw(), self.server.mark()
        client.send(opening("/wait") + early)
        self.server.wait_log("waiting", start)
        return client

    def decide(self, code):
        self.judge.send_frame(TEXT, code)
        assert self.judge.text() == "decided"

    def left(self):
        """The function has come to its end, whichever."""
        self.server.wait_log("left")
        self.server.wait_metric("tidewire_tasks", 0)

    def close(self):
        self.client.close()
        self.judge.close()


@pytest.fixture
def waiting(serve):
    made = []

    def make(*args, **options):
        made.append(Waiting(serve, *args, **options))
        return made[-1]
    yield make
    for one in made:
        one.close()


def flood(client, data):
    """Sends in the background for as long as the server takes it."""
    def send():
        try:
            client.send(data)
        except OSError:
            pass
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("code, status", [("true", 101), ("{a = 'b'}", 101), ("false, 402, 'pay'", 402), ("5", 500)])
def test_the_answer_comes_when_it_has_decided(waiting, code, status):
    w = waiting()
    w.server.wait_metric("tidewire_tasks", 1)
    w.decide(code)
    answer = w.client.response()
    assert (answer.status, answer.headers.get("a")) == (status, "b" if "b" in code else None)
    if status == 402:
        assert answer.body == "pay"
    w.left()


def numbered(n, size=0):
    return b"".join(frame(TEXT, f"{i:06}" + "x" * size) for i in range(n))


@pytest.mark.parametrize("when", ["with the request", "while it waits", "both"])
def test_early_frames_are_handled_in_order_after_it(waiting, when):
    messages = numbered(3) + frame(PING, "p") + frame(TEXT, "fra", fin=False) + frame(CONT, "g" * 200_000)
    cut = {"with the request": len(messages), "while it waits": 0, "both": 20}[when]
    w = waiting(messages[:cut])
    w.client.send(messages[cut:])
    w.decide("true")
    assert w.client.response().status == 101
    assert [w.client.text() for _ in range(3)] == ["1000000", "1000001", "1000002"]
    assert w.client.frame() == (PONG, b"p")
    assert w.client.text() == "1fra" + "g" * 200_000


def test_head_and_early_frames_may_be_cut_anywhere(waiting):
    w = waiting()
    head = len(opening("/wait"))
    whole = opening("/wait") + frame(TEXT, "one") + frame(TEXT, "two")
    for cut in range(head - 5, len(whole) + 1):
        for accept_between in (False, True):
            start = w.server.mark()
            with w.server.raw() as client:
                w.server.send_apart(client, whole[:cut])
                if cut >= head and accept_between:
                    w.server.wait_log("waiting", start)
                    w.decide("true")
                    assert client.response().status == 101
                client.send(whole[cut:])
                if cut < head or not accept_between:
                    w.server.wait_log("waiting", start)
                    w.decide("true")
                    assert client.response().status == 101
                assert (client.text(), client.text()) == ("1one", "1two"), cut


def test_early_bytes_beyond_read_ahead_stay_in_the_kernel_and_are_handled_later(waiting):
    w = waiting(numbered(10, 4000), read_ahead=1000)
    before = w.server.metrics()["tidewire_received_bytes_total"]
    thread = flood(w.client, numbered(2000, 4000)[len(numbered(10, 4000)):])
    w.server.wait_metric("tidewire_tasks", 1)
    for _ in range(30):  # rounds of the loop
        w.decide("")
    read = w.server.metrics()["tidewire_received_bytes_total"] - before
    assert read < 100_000, "reading goes on though nobody has decided"
    w.decide("true")
    assert w.client.response().status == 101
    for i in range(2000):
        assert w.client.text()[:7] == f"1{i:06}"
    thread.join()


@pytest.mark.parametrize("size", [0, 100, 100_000, 8_000_000])
def test_a_refusal_arrives_whole_whatever_came_early(waiting, size):  # not followed by a reset
    w = waiting(read_ahead=1000)
    thread = flood(w.client, b"x" * size)
    w.decide("false, 403, ('no'):rep(50000)")
    answer = w.client.response()
    assert (answer.status, answer.body) == (403, "no" * 50000)
    w.left()
    w.client.sock.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_early_bytes_that_are_no_frames_fail_the_websocket_only_then(waiting):
    w = waiting(b"GET / HTTP/1.1\r\n\r\n")
    w.decide("true")
    assert w.client.response().status == 101
    w.client.expect_close(1002)


def reset(client):
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


LEAVING = {"reset": reset, "close": lambda client: client.close(),
           "half-close": lambda client: client.sock.shutdown(socket.SHUT_WR)}


@pytest.mark.parametrize("early", [0, 100, 50_000])
@pytest.mark.parametrize("how", LEAVING)
def test_when_the_client_has_gone_it_is_cancelled(waiting, how, early):
    w = waiting(read_ahead=1000)
    w.client.send(b"x" * early)
    LEAVING[how](w.client)
    w.left()
    metrics = w.server.metrics()
    assert metrics["tidewire_tasks_cancelled_total"] == 1
    assert metrics['tidewire_http_responses_total{class="5xx"}'] == 0
    w.server.wait_metric("tidewire_connections", 1)
    w.decide("true")  # too late for anyone
    w.decide("")


@pytest.mark.parametrize("early", [0, 50_000])
def test_longer_than_handshake_timeout_is_a_503(waiting, early):
    w = waiting(handshake_timeout=0.3, read_ahead=1000)
    w.client.send(b"x" * early)
    answer = w.client.response()
    assert (answer.status, "handshake_timeout" in answer.body) == (503, True)
    w.client.expect_end()
    w.left()


def test_a_server_that_stops_does_not_wait_for_it(waiting):
    w = waiting()
    w.server.send_signal(signal.SIGTERM)
    assert w.client.response().status == 503
    w.client.expect_end()
    assert w.judge.frame()[1][:2] == b"\x03\xe9"
    w.close()
    assert w.server.stop(None) == 0
    assert "left" in w.server.log


@pytest.mark.parametrize("verdict", ["true", "false"])
def test_who_is_decided_on_while_the_server_stops_is_told_so(serve, verdict):
    server = serve(f"""app.websocket("/x", {{should_upgrade = function()
        log.info("waiting") app.sleep(0.4) return {verdict}
      end}}, function() end)""", drain_timeout=3)
    with server.raw() as client:
        client.handshake("/x")
        server.wait_log("waiting")
        server.send_signal(signal.SIGTERM)
        answer = client.response()
        if answer.status == 101:
            opcode, payload = client.frame()  # not just cut at the end of drain_timeout
            assert (opcode, payload[:2]) == (CLOSE, b"\x03\xe9")
            client.send_frame(CLOSE, close_payload(1001))
        else:
            assert answer.status in (403, 503)
    assert server.stop(None) == 0


WAIT_FOR_ALL = """
app.websocket("/wait", {should_upgrade = function(req)
  log.info("waiting in generation", app.generation)
  while not app.shared.get("decided") do app.sleep(0.001) end
  return true
end}, function(ws)
  log.info("opened in generation", app.generation)
  ws:on_text(function(ws, text) ws:send(app.generation .. text) end)
  ws:on_close(function(ws, code) log.info("closed in generation", app.generation, code) end)
end)
"""
DECIDE = "app.get('/decide', function() app.shared.set('decided', true) return 'decided' end)"


def accepted_after_a_reload(server, client, text):
    client.handshake("/wait")
    client.send(HELLO)
    server.wait_log("waiting in generation 1")
    assert server.reload(text + DECIDE)
    with server.raw() as judge:
        assert judge.request("GET /decide HTTP/1.1\nHost: x\n\n").body == "decided"
    assert client.response().status == 101


def test_the_code_that_began_to_wait_accepts_and_the_connection_moves_before_its_first_message(serve):
    server = serve(WAIT_FOR_ALL)
    with server.raw() as client:
        accepted_after_a_reload(server, client, WAIT_FOR_ALL)
        assert client.text() == "2hello"
        client.send_frame(TEXT, "again")
        assert client.text() == "2again"
    server.wait_log("closed in generation 2")
    assert re.findall(r"(?:waiting|opened) in generation \d", server.log) == [
        "waiting in generation 1", "opened in generation 1", "opened in generation 2"]


def test_what_it_accepts_closes_with_1012_when_the_new_code_has_no_such_route(serve):
    server = serve(WAIT_FOR_ALL)
    with server.raw() as client:
        accepted_after_a_reload(server, client, "")
        opcode, payload = client.frame()
        assert (opcode, payload[:2]) == (CLOSE, close_payload(1012))
        client.send_frame(CLOSE, close_payload(1012))
        client.expect_end()
    server.wait_log("closed in generation 1 1012")


def test_a_wait_that_ends_together_with_reload_drain_is_answered(serve):
    server = serve(f"""app.websocket("/x", {{should_upgrade = function()
        log.info("waiting") app.sleep(0.3) return true
      end}}, {ECHO})
      app.websocket("/busy", function() log.info("busy") local till = os.clock() + 0.6 repeat until os.clock() > till
      end)""", reload_drain=0.3, handshake_timeout=5)
    with server.raw() as client:
        client.handshake("/x")
        client.send(HELLO)
        server.wait_log("waiting")
        assert server.reload()
        with server.raw("/busy"):  # both timers are due when it returns
            answer = client.response()
            if answer.status == 101:
                assert client.text() == "hello"
            else:
                assert answer.status == 503


# ---- the request ----

def test_the_request_is_there(serve):
    server = serve("""app.websocket("/room/:name", {should_upgrade = function(req)
        return {["X-Seen"] = table.concat({req.method, req.path, req.params.name, req.query.a, req.query_string,
                                           req.headers["x-Token"], req.remote_address}, "|")}
      end}, function() end)""")
    with server.raw() as client:
        client.handshake("/room/tea%20room?a=1%2F2", x_token="abc")
        seen = client.response().headers["x-seen"]
    assert seen == "GET|/room/tea room|tea room|1/2|a=1%2F2|abc|127.0.0.1"


@pytest.mark.parametrize("wait", ["", "app.sleep(0)"])
@pytest.mark.parametrize("parameters", ["ws, req", "ws", "..."])
def test_its_context_is_what_the_handlers_see(serve, wait, parameters):
    server = serve(f"""local seen
      app.websocket("/x", {{should_upgrade = function(req)
        assert(next(req.context) == nil)
        {wait}
        req.context.user, req.context.list, seen = req.query.user, {{1, 2}}, req
        return true
      end}}, function({parameters})
        local ws, req = {parameters}
        req = req or ws.request
        assert(rawequal(req, ws.request) and rawequal(req, seen) and #req.context.list == 2)
        ws:send(req.context.user)
        ws:on_text(function(ws) ws:send(ws.request.context.user) end)
        ws:on_close(function(ws) log.info("closed:", ws.request.context.user) end)
      end)""")
    with server.raw("/x?user=ann") as ann, server.raw("/x?user=bob") as bob:
        assert (ann.text(), bob.text()) == ("ann", "bob")
        for client, user in ((ann, "ann"), (bob, "bob")):
            client.send(HELLO)
            assert client.text() == user
            client.send_frame(CLOSE, close_payload(1000))
            server.wait_log(f"closed: {user}")


# ---- subprotocols ----

def chooser(protocols):
    return f"""app.websocket("/x", {{protocols = {protocols}}}, function(ws)
        ws:send(tostring(ws.protocol))
        ws:on_text(function(ws) ws:send(tostring(ws.protocol)) end)
      end)"""


# The client's header lines, each named differently from the next; the route's option; the choice.
LINES = ["sec_websocket_protocol", "Sec_WebSocket_Protocol", "SEC_WEBSOCKET_PROTOCOL"]
CHOICES = [
    (["a, b"], "{'b', 'a'}", "b"),  # the server's order decides
    (["x,  c ,y"], "{'b', 'a', 'c'}", "c"),
    (["x, y"], "{'b', 'a'}", None),
    ([], "{'b', 'a'}", None),
    (["a", "x, c", "b"], "{'b', 'c', 'a'}", "b"),
    (["a", "x, c", "b"], "'c'", "c"),
    (["chat, CHAT"], "{'Chat', 'chaT'}", None),  # case matters
    (["CHAT, Chat"], "{'chat', 'CHAT'}", "CHAT"),
    (["chat.v2, cha"], "{'chat'}", None),
    (["chat"], "{}", None),
    ([", ,chat,,chat"], "'chat'", "chat"),
    (["!#$%&'*+-.^_`|~09azAZ"], "\"!#$%&'*+-.^_`|~09azAZ\"", "!#$%&'*+-.^_`|~09azAZ"),
    ([", ".join(f"p{i}" for i in range(64))], "'p63'", "p63"),
]


@pytest.mark.parametrize("offers, option, choice", CHOICES)
def test_the_protocol_is_the_first_of_the_routes_that_is_offered(serve, offers, option, choice):  # RFC 6455, 4.2.2
    server = serve(chooser(option))
    with server.raw() as client:
        client.handshake("/x", **dict(zip(LINES, offers)))
        answer = client.response()
        assert (answer.status, answer.headers.get("sec-websocket-protocol")) == (101, choice)
        assert client.text() == (choice or "nil")
        client.send(HELLO)
        assert client.text() == (choice or "nil")


@pytest.mark.parametrize("offers", [[""], [","], ["a b"], ["a;q=1"], ['"a"'], ["caf\xe9"], ["a, b/1"], ["a", "b c"],
                                    ["a", ""], [", ".join(f"p{i}" for i in range(65))]])
def test_a_malformed_offer_is_a_400(serve, offers):  # RFC 6455, 4.1
    server = serve(chooser("'a'") + f"app.websocket('/none', {ECHO})")
    for path in ("/x", "/none"):
        status, _, body = knock(server, path, **dict(zip(LINES, offers)))
        assert status == 400 and b"Sec-WebSocket-Protocol" in body


@pytest.mark.parametrize("option, said", [
    ("{'chat', 'a b'}", '"a b"'), ("''", '""'), ("'a,b'", '"a,b"'),
    ("5", "number"), ("{5}", "number"), ("{{}}", "table"), ("true", "boolean"), ("{'a\\0b'}", "zero byte"),
    ("{'a', nil, 'c'}", "nil"), ("{(function() local t = {} for i = 1, 99 do t[i] = 'p' .. i end "
                                 "return table.unpack(t) end)()}", "at most")])
def test_an_invalid_name_of_a_protocol_does_not_load(tmp_path, option, said):
    text = refusal(f"\napp.websocket('/x', {{protocols = {option}}}, print)", tmp_path)
    assert "main.lua:2: app.websocket: protocols: " in text and said in text, text


def test_a_python_client_gets_its_protocol(serve):
    server = serve(chooser("{'b', 'a'}"))

    async def talk():
        async with websockets.connect(server.url("/x"), subprotocols=["a", "x", "b"]) as ws:
            return ws.subprotocol, await ws.recv()
    assert asyncio.run(talk()) == ("b", "b")


# ---- origins ----

# By the route's option: Origin and Host (localhost when left out) of who may come in, and of who may not.
ORIGINS = {
    "nil": (["", "http://localhost", "https://localhost", "http://localhost:80", "http://localhost localhost:80",
             "https://localhost localhost:443", "HTTP://LocalHost lOCALhOST", "http://localhost:8080 localhost:8080",
             "http://[::1]:80 [0:0::1]"],
            ["http://localhost localhost:443", "http://localhost:8080", "http://localhost localhost:8080",
             "http://localhost:8080 localhost:8081", "http://evil.example", "http://localhost.evil.example",
             "http://a.localhost", "ftp://localhost", "localhost", "http://localhost/", "http://localhost@evil.example",
             "null", "null null", "http://", "http://localhost:0", "http://localhost:080"]),
    "'*'": (["http://evil.example", "null", "never-heard-of", ""], []),
    "'null'": (["null", ""], ["http://localhost", "http://null null"]),
    "'https://*.example.com'": (["https://a.b.Example.com", "https://a.example.com:443"],
                                ["https://example.com", "http://a.example.com", "https://a.example.com:8443",
                                 "https://evilexample.com", "https://localhost", "null"]),
    "'example.com:*'": (["https://example.com:1234", "http://example.com"], ["https://example.org:1234"]),
    "{'same', 'https://app.example'}": (["https://app.example", "http://localhost", ""], ["https://other.example"]),
    "{'https://app.example'}": (["https://app.example", ""], ["http://localhost", "http://app.example"]),
}


@pytest.mark.parametrize("option", ORIGINS)
def test_the_page_that_asks_must_be_among_the_origins(serve, option):  # RFC 6455, 10.2
    server = serve(f"app.websocket('/x', {{origins = {option}}}, {ECHO})")
    come_in, stay_out = ORIGINS[option]
    for who in come_in + stay_out:
        origin, _, host = who.partition(" ")
        start = server.mark()
        status, _, body = knock(server, "/x", origin=origin or None, host=host or "localhost")
        assert status == (101 if who in come_in else 403), who
        if who in stay_out:
            assert b"origin" in body
            server.wait_log(r"info +\[worker 1, connection \d+, /x\].*" + re.escape(f'"{origin}"') + ".*origins", start)
    assert server.metrics()['tidewire_upgrades_refused_total{reason="origin"}'] == len(stay_out)


@pytest.mark.parametrize("origin, other", [("http://localhost", "http://localhost"), ("null", "null"), ("", None),
                                           ("http://localhost", "http://evil.example")])
def test_two_origins_and_an_empty_one_fit_nothing(serve, origin, other):
    server = serve(f"app.websocket('/x', {{origins = {{'same', 'null'}}}}, {ECHO})")
    assert knock(server, "/x", origin=origin, Origin=other)[0] == 403


def test_an_origin_cannot_forge_the_log(serve):
    server = serve(f"app.websocket('/x', {ECHO})")
    start = server.mark()
    assert knock(server, "/x", origin="http://\x1b[31m" + "x" * 5000)[0] in (400, 403)
    assert knock(server, "/x", origin="http://" + "y" * 5000)[0] == 403
    assert "\x1b" not in server.wait_log("http://y.*", start).string
    assert len(server.wait_log("http://y+", start).group()) < 300


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_a_routes_origins_beat_those_of_the_configuration(serve, tmp_path, how):
    script = f"app.websocket('/x', {ECHO}) app.websocket('/y', {{origins = 'https://y.example'}}, {ECHO})"
    conf = tmp_path / "o.lua"
    conf.write_text("return {origins = {'https://a.example', 'https://b.example'}}")
    flags = {"flag": ["--origins", "https://a.example", "--origins", "https://b.example"],
             "environment": [], "file": ["--config", conf]}[how]
    options = {"origins": "https://a.example,https://b.example"} if how == "environment" else {}
    server = serve(script, *flags, **options)
    for path, origin, status in [("/x", "a", 101), ("/x", "b", 101), ("/x", "y", 403), ("/y", "y", 101),
                                 ("/y", "a", 403)]:
        assert knock(server, path, origin=f"https://{origin}.example")[0] == status, (path, origin)
    assert knock(server, "/x", origin="http://localhost")[0] == 403


BAD_PATTERNS = ["http://a/b", "https://a/", "a b", "https://a.*.com", "http://", "a:99999", "*.1.2.3.4", "::1", "u@h",
                "https://a?x", "caf\u00e9.example"]


@pytest.mark.parametrize("option", [f"'{p}'" for p in BAD_PATTERNS] + [f"{{'same', '{p}'}}" for p in BAD_PATTERNS]
                         + ["{}", "''", "5", "{1}", "false"])
def test_an_invalid_pattern_of_a_route_does_not_load(tmp_path, option):
    text = refusal(f"\napp.websocket('/x', {{origins = {option}}}, print)", tmp_path)
    assert "main.lua:2: app.websocket: origins: " in text, text


@pytest.mark.parametrize("pattern", BAD_PATTERNS)
@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_an_invalid_pattern_of_the_configuration_is_an_error_at_the_start(tmp_path, pattern, how):
    (tmp_path / "main.lua").write_text(f"app.websocket('/x', {ECHO})")
    (tmp_path / "o.lua").write_text(f"return {{origins = {{'same', '{pattern}'}}}}", encoding="utf-8")
    flags = {"flag": ["--origins", "same", "--origins", pattern], "file": ["--config", tmp_path / "o.lua"]}
    env = {"origins": "same," + pattern} if how == "environment" else {}
    done = run(tmp_path / "main.lua", "--listen", "127.0.0.1:0", *flags.get(how, []), env=env)
    assert done.returncode == 2 and "origins" in done.stderr.lower(), done.stderr


# ---- the options of a route ----

KNOWN = ["close_timeout", "idle_timeout", "max_frame", "max_message", "messages_per_second", "on_slow", "origins",
         "ping_interval", "protocols", "read_ahead", "send_limit", "should_upgrade"]


@pytest.mark.parametrize("option", ["max_mesage = 5", "Origins = '*'"])
def test_an_unknown_option_does_not_load_and_the_known_ones_are_listed(tmp_path, option):
    text = refusal(f"app.websocket('/fine', {{}}, print)\n\napp.websocket('/x', {{{option}}}, print)", tmp_path)
    assert f"main.lua:3: app.websocket: unknown option {option.split()[0]}" in text
    assert all(name in text for name in KNOWN)


@pytest.mark.parametrize("option", ["listen = 'x'", "queue_limit = 5", "compression_window = 9"])
def test_an_option_of_the_whole_server_does_not_load_and_is_called_so(tmp_path, option):
    text = refusal(f"app.websocket('/x', {{{option}}}, print)", tmp_path)
    assert f"app.websocket: {option.split()[0]} cannot be set here; it is an option of the configuration" in text


WRONG = {
    "cannot be a table": ["max_message = {}"],
    "cannot be a boolean": ["max_message = true", "on_slow = true"],
    "cannot be a function": ["max_frame = print"],
    "is not a number": ["max_message = 0", "max_message = false", "max_message = -1", "max_message = '5 apples'",
                        "max_message = 2^40", "max_message = 0/0", "max_message = 1/0", "send_limit = 0",
                        "read_ahead = -5", "ping_interval = 'often'", "idle_timeout = -1", "close_timeout = 0",
                        "close_timeout = false", "messages_per_second = 'x'", "messages_per_second = 2e6"],
    "is none of close|drop": ["on_slow = 'wait'", "on_slow = false", "on_slow = 1"],
    "should_upgrade is a boolean": ["should_upgrade = true"],
    "should_upgrade is a string": ["should_upgrade = 'f'"],
    "every option has a name": ["5", "[true] = 1"],
}


@pytest.mark.parametrize("said, option", [(said, option) for said, options in WRONG.items() for option in options])
def test_an_option_of_a_wrong_kind_or_size_does_not_load(tmp_path, said, option):
    text = refusal(f"\napp.websocket('/x', {{{option}}}, print)", tmp_path)
    assert "main.lua:2: app.websocket: " in text and said in text, text
    assert "name" in said or option.split()[0] in text


@pytest.mark.parametrize("arguments", ["{}", "{}, {}, print", "{}, nil", "nil, print", "{}, print, {}", "print, {}"])
def test_the_options_stand_between_path_and_function(tmp_path, arguments):
    assert "main.lua:1:" in refusal(f"app.websocket('/x', {arguments})", tmp_path)
