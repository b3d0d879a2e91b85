# SPDX-License-Identifier: MIT
"""The access log: one line for each request and each WebSocket at its end, in two forms, that nobody can forge."""
import json
import re
import signal
import socket

import pytest

from conftest import CLOSE, TEXT, close_payload

SCRIPT = """
app.get("/hello/:name", function() return "hello" end)
app.get("/boom", function() error("boom") end)
app.get("/empty", function() return 204 end)
app.get("/slow", function() app.sleep(1000) end)
app.get("/stream", function() return 200, function(write) for _ = 1, 3 do write("abcd") end end end)
app.get("/cut", function() return 200, function(write) write("abcd") error("cut") end end)
app.post("/post", function(req) return req.body end)
app.websocket("/echo", function(ws)
  ws:on_text(function(ws, text)
    if text == "bye" then ws:close(4001, "bye") elseif text == "boom" then error("boom") else ws:send(text) end
  end)
end)
app.websocket("/never", {should_upgrade = function() return false end}, function() end)
app.websocket("/topic", function(ws)
  ws:subscribe("t")
  ws:on_text(function(ws, text) app.publish("t", text) end)
end)
"""
TEXT_LINE = re.compile(
    r'(?P<address>\S+) - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "(?P<request>[^"]*)" (?P<status>\d+) '
    r'(?P<bytes>\d+) "-" "(?P<user_agent>[^"]*)" (?P<ms>\d+\.\d{3})ms route="(?P<route>[^"]*)" worker=(?P<worker>\d+) '
    r'connection=(?P<connection>\d+)(?P<cut> cut)?(?: (?P<kind>websocket|client) in=(?P<messages_in>\d+)/(?P<bytes_in>\d+) '
    r'out=(?P<messages_out>\d+)/(?P<bytes_out>\d+) close=(?P<close_code>\d+) by=(?P<closed_by>\w+))?')


class Access:
    """A server with an access log in a file."""

    def __init__(self, serve, path, form="json", script=SCRIPT, **options):
        self.path, self.form = path, form
        self.server = serve(script, access_log=path, log_format=form, **options)

    def read(self):
        """The lines so far as dicts, the same for both forms."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        if self.form == "json":
            return [{"access": "", "cut": False, **json.loads(line)} for line in lines]
        found = []
        for line in lines:
            match = TEXT_LINE.fullmatch(line)
            assert match, line
            fields = {k: int(v) if v.isdigit() else v for k, v in match.groupdict().items() if v not in (None, "-")}
            fields["access"] = fields.pop("kind", "request")
            fields["cut"] = "cut" in fields
            if "request" in fields:
                fields["method"], fields["path"], _ = fields.pop("request").split(" ")
            found.append(fields)
        return found

    def wait(self, count):
        self.server.wait_metric("tidewire_connections", lambda _: len(self.read()) >= count)
        lines = self.read()
        assert len(lines) == count
        return lines


@pytest.fixture(name="access")
def start_access(serve, tmp_path):
    return lambda form="json", **options: Access(serve, tmp_path / "access", form, **options)


def subset(line, **fields):
    assert {k: line.get(k) for k in fields} == fields


FORMS = pytest.mark.parametrize("form", ["text", "json"])


@FORMS
@pytest.mark.parametrize("request_text, expected", [
    ("GET /hello/bob?token=secret HTTP/1.1\nHost: x\nUser-Agent: me/1\n\n",
     {"method": "GET", "path": "/hello/bob", "status": 200, "bytes": 5, "route": "/hello/:name", "user_agent": "me/1"}),
    ("HEAD /hello/x HTTP/1.1\nHost: x\n\n", {"method": "HEAD", "status": 200, "bytes": 0, "route": "/hello/:name"}),
    ("GET /boom HTTP/1.1\nHost: x\n\n", {"path": "/boom", "status": 500, "route": "/boom"}),
    ("GET /empty HTTP/1.1\nHost: x\n\n", {"status": 204, "bytes": 0}),
    ("GET /stream HTTP/1.1\nHost: x\n\n", {"status": 200, "bytes": 12, "cut": False, "route": "/stream"}),
    ("GET /cut HTTP/1.1\nHost: x\n\n", {"status": 200, "bytes": 4, "cut": True}),
    ("POST /post HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc", {"method": "POST", "status": 200, "bytes": 3}),
    ("GET /nowhere HTTP/1.1\nHost: x\n\n", {"path": "/nowhere", "status": 404, "route": None}),
    ("GET /echo HTTP/1.1\nHost: x\n\n", {"path": "/echo", "status": 426}),
    ("DELETE /boom HTTP/1.1\nHost: x\n\n", {"method": "DELETE", "status": 405}),
    ("GET /hello/x HTTP/1.1\n\n", {"status": 400, "path": None}),
    ("GET /hello/%zz HTTP/1.1\nHost: x\n\n", {"status": 400}),
    ("nonsense\n\n", {"status": 400, "path": None}),
    ("GET /hello/x HTTP/1.1\nHost: x\nX: " + "x" * 2000 + "\n\n", {"status": 431}),
    ("POST /post HTTP/1.1\nHost: x\nContent-Length: 999999\n\n", {"path": "/post", "status": 413, "route": "/post"}),
    ("GET /never HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\n"
     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n", {"path": "/never", "status": 403, "route": "/never"}),
], ids=lambda value: None if isinstance(value, dict) else value.split(" HTTP")[0][:20])
def test_requests(access, form, request_text, expected):
    log = access(form, max_head=1024, max_body=1000)
    with log.server.raw() as client:
        client.send(request_text.replace("\n", "\r\n"))
        assert client.until(b"\r\n")
        line, = log.wait(1)
    subset(line, access="request", address="127.0.0.1", worker=1, **expected)
    assert float(line["ms"]) >= 0 and int(line["connection"]) > 0
    assert "secret" not in log.path.read_text(encoding="utf-8")


@FORMS
def test_requests_of_one_connection(access, form):
    log = access(form)
    with log.server.raw() as client:
        for name in "abc":
            client.request(f"GET /hello/{name} HTTP/1.1\nHost: x\n\n")
    lines = log.wait(3)
    assert [line["path"] for line in lines] == ["/hello/a", "/hello/b", "/hello/c"]
    assert len({line["connection"] for line in lines}) == 1


@FORMS
def test_a_client_that_goes_before_the_answer(access, form):
    log = access(form)
    with log.server.raw() as client:
        client.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        log.server.wait_metric("tidewire_tasks", 1)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line, = log.wait(1)
    subset(line, path="/slow", route="/slow", status=499, bytes=0)


@FORMS
def test_a_head_that_does_not_arrive(access, form):
    log = access(form, handshake_timeout=0.1)
    with log.server.raw() as client:
        client.send("GET /hello/x")
        assert client.response().status == 408
    line, = log.wait(1)
    subset(line, status=408, path=None)


@FORMS
def test_a_connection_without_a_place(access, form):
    log = access(form, max_connections=1)
    with log.server.raw() as first:
        first.request("GET /hello/x HTTP/1.1\nHost: x\n\n")
        with log.server.raw() as client:
            assert client.response().status == 503
        subset(log.wait(2)[1], status=503, path=None, address="127.0.0.1")


def test_a_connection_that_asks_nothing_is_not_logged(access):
    log = access()
    with log.server.raw():
        pass
    with log.server.raw() as client:
        log.server.wait_metric("tidewire_connections", 1)
        client.request("GET /hello/x HTTP/1.1\nHost: x\n\n")
    line, = log.wait(1)
    subset(line, status=200)


def test_the_client_behind_a_trusted_proxy(access):
    log = access(trusted_proxies="loopback")
    with log.server.raw() as client:
        client.request("GET /hello/x HTTP/1.1\nHost: x\nX-Forwarded-For: 203.0.113.9\n\n")
    with log.server.raw("/echo", x_forwarded_for="2001:db8::1") as client:
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    assert [line["address"] for line in log.wait(2)] == ["203.0.113.9", "2001:db8::1"]


# ---- WebSockets ----


@FORMS
@pytest.mark.parametrize("end, code, closed_by", [
    ("peer", 1000, "peer"), ("script", 4001, "us"), ("error", 1011, "us"), ("fault", 1002, "us"), ("reset", 1006, "nobody"),
    ("stop", 1001, "us"),
])
def test_websockets(access, form, end, code, closed_by):
    log = access(form)
    with log.server.raw("/echo?token=secret", user_agent="me/2") as client:
        for text in ("one", "three"):
            client.send_frame(TEXT, text)
            assert client.text() == text
        before = 2 * (2 + 4) + 8
        if end == "peer":
            client.send_frame(CLOSE, close_payload(1000))
            client.expect_close(1000)
        elif end == "script":
            client.send_frame(TEXT, "bye")
            assert client.frame()[0] == CLOSE
            client.send_frame(CLOSE, close_payload(4001))
        elif end == "error":
            client.send_frame(TEXT, "boom")
            client.expect_close(1011)
        elif end == "fault":
            client.send_frame(TEXT, "x", mask=None)
            client.expect_close(1002)
        elif end == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        elif end == "stop":
            log.server.send_signal(signal.SIGTERM)
            assert client.frame()[0] == CLOSE
            client.send_frame(CLOSE, close_payload(1001))
            log.server.process.wait()
        if end != "stop":
            log.wait(1)
    line, = log.read()
    subset(line, access="websocket", method="GET", path="/echo", status=101, route="/echo", user_agent="me/2",
           address="127.0.0.1", close_code=code, closed_by=closed_by,
           messages_in=3 if end in ("script", "error") else 2, messages_out=2)
    assert line["bytes_in"] >= before and line["bytes_out"] == line["bytes"] >= 2 * 2 + 8
    if end == "peer":
        assert (line["bytes_in"], line["bytes_out"]) == (before + 2 + 4 + 2, 2 * 2 + 8 + 4)
    assert "secret" not in log.path.read_text(encoding="utf-8")


def test_what_is_published_counts_too(access):
    log = access()
    with log.server.raw("/topic") as one, log.server.raw("/topic") as two:
        one.send_frame(TEXT, "x" * 3000)
        assert one.text() == two.text() == "x" * 3000
        for client in (one, two):
            client.send_frame(CLOSE, close_payload(1000))
            client.expect_close(1000)
    for line in log.wait(2):
        subset(line, messages_out=1, bytes_out=3000 + 4 + 4)


def test_large_messages_count_whole(access):
    log = access(max_message="4m")
    with log.server.raw("/echo") as client:
        client.send_frame(TEXT, "x" * 1_000_000)
        assert len(client.text()) == 1_000_000
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    line, = log.wait(1)
    subset(line, messages_in=1, messages_out=1, bytes_in=1_000_000 + 14 + 8, bytes_out=1_000_000 + 10 + 4)


CLIENT = """
app.websocket("/echo", function(ws) ws:on_text(function(ws, text) ws:send(text) end) end)
app.get("/connect", function(req)
  local done = app.promise()
  local ws = assert(app.connect(("ws://user:secret@127.0.0.1:%s/echo?token=secret"):format(req.query.port), function(ws)
    log.info("opened")
    ws:on_text(function(ws)
      log.info("got")
      app.after(0.001, function() log.info("later") ws:close(4002) end)
    end)
    ws:on_close(function(ws) log.info("closed") done:resolve("x") end)
  end))
  ws:send("hello")
  log.info("waiting")
  return done:await()
end)
"""


@FORMS
def test_what_a_script_opens(access, form):
    log = access(form, script=CLIENT)
    with log.server.raw() as client:
        client.request(f"GET /connect?port={log.server.port} HTTP/1.1\nHost: x\n\n")
    lines = {line["access"]: line for line in log.wait(3)}
    subset(lines["client"], method="GET", close_code=4002, closed_by="us", messages_in=1, messages_out=1, route=None,
           bytes_out=6 + 5 + 8, bytes_in=2 + 5 + 4)
    subset(lines["websocket"], close_code=4002, closed_by="peer", messages_in=1, messages_out=1)
    if form == "json":
        subset(lines["client"], host=f"127.0.0.1:{log.server.port}", path="/echo")
    else:
        subset(lines["client"], path=f"ws://127.0.0.1:{log.server.port}/echo")
    log.server.stop()
    assert "secret" not in log.path.read_text(encoding="utf-8") + log.server.log
    url = f"ws://127.0.0.1:{log.server.port}/echo"
    for message, where in [("opened", url), ("got", url), ("later", url), ("closed", url), ("waiting", "/connect")]:
        if form == "json":
            line, = [line for line in map(json.loads, log.server.lines) if line["message"] == message]
            assert line["route"] == where and line["connection"] > 0 and line["worker"] == 1
        else:
            assert re.search(rf"\[worker 1, connection \d+, {re.escape(where)}\] {message}$", log.server.log, re.M)


# ---- nothing forges a line ----


@FORMS
@pytest.mark.parametrize("agent", ['" 200 9 "-" "x', "\\", "\t{\"status\":999}", "\x80\xff\xc2\x85"],
                         ids=["quotes", "backslash", "json", "bytes"])
def test_nothing_forges_a_line(access, form, agent):
    log = access(form)
    with log.server.raw() as client:
        client.send(b'GET /hello/a"b\\c%0a%22 HTTP/1.1\r\nHost: x\r\nUser-Agent: ' + agent.encode("latin-1") + b"\r\n\r\n")
        status = client.response().status
    line, = log.wait(1)
    subset(line, access="request", status=status)
    assert re.fullmatch(rb"[\x20-\x7e]+\n", log.path.read_bytes()) or form == "json"
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", log.path.read_bytes())


# ---- where it goes ----


@FORMS
def test_the_access_log_on_standard_output(serve, form):
    server = serve(SCRIPT, access_log="-", log_format=form)
    with server.raw() as client:
        client.request("GET /hello/x HTTP/1.1\nHost: x\n\n")
    server.wait_log(r"\"GET /hello/x HTTP/1.1\" 200 5 " if form == "text" else '"path":"/hello/x","status":200')


def test_there_is_none_unless_it_is_asked_for(serve):
    server = serve(SCRIPT)
    with server.raw() as client:
        client.request("GET /hello/x HTTP/1.1\nHost: x\n\n")
    server.stop()
    assert "/hello/x" not in server.log
