# SPDX-License-Identifier: MIT
"""print and log.* of scripts: levels, where a line comes from, and that nothing in a message can forge one."""
import json
import re
import subprocess

import pytest

from conftest import BINARY, PATIENCE, environment, run


def lines_of(tmp_path, text, *args):
    """What a script that only logs makes of standard error, as bytes; it must load."""
    script = tmp_path / "main.lua"
    script.write_text(text, encoding="utf-8")
    done = subprocess.run([BINARY, "check", *args, str(script)], env=environment(), capture_output=True, check=False,
                          timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


ALL_LEVELS = 'log.debug("a") log.info("b") log.warn("c") log.error("d") print("e")'
LEVELS = {"debug": "debug a,info b,warn c,error d,info e", "info": "info b,warn c,error d,info e",
          "warn": "warn c,error d", "error": "error d"}


@pytest.mark.parametrize("level", LEVELS)
def test_log_level(tmp_path, level):
    lines = [json.loads(line) for line in lines_of(tmp_path, ALL_LEVELS, "--log-format=json", "--log-level", level)]
    assert ",".join(f"{line['level']} {line['message']}" for line in lines) == LEVELS[level]


def test_log_line_in_text(tmp_path):
    line, = lines_of(tmp_path, 'log.warn("careful")')
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warn  \[worker 1\] careful", line)


@pytest.mark.parametrize("call, message", [
    ('print("a", 1, nil, true, 2.5)', "a\t1\tnil\ttrue\t2.5"),
    ('log.info("a", 1, nil, true, 2.5)', "a 1 nil true 2.5"),
    ("print()", ""),
    ("log.info()", ""),
    ('print(setmetatable({}, { __tostring = function() return "mine" end }))', "mine"),
    ('log.info(setmetatable({}, { __tostring = function() return "mine" end }))', "mine"),
    ('log.info("100 % %s %d %n")', "100 % %s %d %n"),
    ("log.info(table.unpack({}, 1, 200))", " ".join(["nil"] * 200)),
])
def test_log_shows_its_arguments(tmp_path, call, message):
    line, = lines_of(tmp_path, call, "--log-format=json")
    assert json.loads(line)["message"] == message


def test_log_raises_for_a_bad_tostring(tmp_path):
    script = tmp_path / "main.lua"
    script.write_text("log.info(setmetatable({}, { __tostring = function() return {} end }))", encoding="utf-8")
    done = run("check", script)
    assert done.returncode == 1 and "'__tostring' must return a string" in done.stderr


NASTY = {
    "line feed": "one\n2026-01-01T00:00:00.000Z error forged",
    "carriage return": "one\r2026-01-01T00:00:00.000Z error forged",
    "crlf": "one\r\ntwo",
    "trailing line feed": "one\n",
    "escape sequence": "\x1b[2J\x1b]0;title\x07",
    "every control character": "".join(map(chr, range(1, 32))) + "\x7f",
    "quote and backslash": "\",\"level\":\"error\",\"x\":\"\\",
    "not ASCII": "Grüße, 世界 🎉",
    "zero byte": "before\0after",
}


def lua_string(data):
    return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


@pytest.mark.parametrize("writer", ["log.info", "print", "log.error"])
@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_nothing_forges_a_line_in_json(tmp_path, writer, text):
    line, = lines_of(tmp_path, f"{writer}({lua_string(text.encode())})", "--log-format=json")
    parsed = json.loads(line)
    assert parsed["message"] == text and set(parsed) == {"time", "level", "message", "worker"}


@pytest.mark.parametrize("data", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"],
                         ids=["ff", "cut short", "surrogate", "five bytes"])
def test_json_lines_are_utf8_whatever_is_logged(tmp_path, data):
    line, = lines_of(tmp_path, f"log.info({lua_string(data)})", "--log-format=json")
    json.loads(line.decode("utf-8"))


@pytest.mark.parametrize("shift", range(4))
def test_a_long_message_is_cut_between_characters(tmp_path, shift):
    line, = lines_of(tmp_path, f'log.info(("x"):rep({shift}) .. ("🎉"):rep(5000))', "--log-format=json")
    assert json.loads(line.decode("utf-8"))["message"].startswith("x" * shift + "🎉" * 1000)


@pytest.mark.parametrize("writer", ["log.info", "print", "log.error"])
@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_nothing_forges_a_line_in_text(tmp_path, writer, text):
    first, *rest = lines_of(tmp_path, f"{writer}({lua_string(text.encode())})")
    assert b"[worker 1] " in first
    assert all(line.startswith(b"    ") for line in rest), "only indented lines may follow"
    for line in (first, *rest):
        assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", line)
    shown = b"".join([first, *rest]).decode()
    for word in re.findall(r"\w+", text):
        assert word in shown


def test_a_handlers_lines_say_where_they_come_from(serve):
    server = serve("""
        app.websocket("/room/:name", function(ws)
          log.warn("opened")
          ws:on_text(function() print("a message") end)
        end)""", log_format="json")
    with server.raw("/room/5") as client:
        client.send_frame(1, "x")
        server.wait_log("a message")
    by_message = {parsed["message"]: parsed for parsed in map(json.loads, server.lines)}
    assert by_message["opened"]["level"] == "warn" and by_message["a message"]["level"] == "info"
    for message in ("opened", "a message"):
        parsed = by_message[message]
        assert parsed["worker"] == 1 and parsed["route"] == "/room/:name" and isinstance(parsed["connection"], int)


EVERYWHERE = """
local function spread(name)
  log.info(name)
  app.spawn(function() log.info(name, "spawned") app.sleep(0.001) log.info(name, "slept") end)
  app.after(0.001, function() log.info(name, "timer") end)
  local promise = app.promise()
  promise:when_complete(function() log.info(name, "promise") end)
  app.after(0.002, function() promise:resolve() end)
end
app.get("/http/:x", function() spread("http") return "x" end)
app.group("/group", function(req, next) spread("middleware") return next(req) end, function(group)
  group.get("in", function() return "x" end)
end)
app.websocket("/ws/:x", {should_upgrade = function() spread("should_upgrade") return true end}, function(ws)
  spread("opened")
  ws:on_text(function(ws) spread("on_text") ws:send("x", function() spread("done") end) end)
  ws:on_ping(function() spread("on_ping") end)
  ws:on_close(function() spread("on_close") end)
end)
app.get("/", function() error("an error in a handler") end)
"""


def test_every_kind_of_handler_says_route_and_connection(serve):
    server = serve(EVERYWHERE, log_format="json")
    with server.raw("/ws/1") as client:
        client.send_frame(1, "x")
        assert client.text() == "x"
        client.send_frame(9, "")
        assert client.frame() == (10, b"")
    with server.raw() as client:
        for path in ("/http/1", "/group/in", "/"):
            client.request(f"GET {path} HTTP/1.1\nHost: x\n\n")
    routes = {"http": "/http/:x", "middleware": "/group/in"}
    for name in ("http", "middleware", "should_upgrade", "opened", "on_text", "done", "on_ping", "on_close"):
        for message in (name, f"{name} spawned", f"{name} slept", f"{name} timer", f"{name} promise"):
            found = json.loads(server.wait_log(rf'.*"message":"{message}".*').group(0))
            assert found["route"] == routes.get(name, "/ws/:x"), found
            assert isinstance(found["connection"], int) and found["worker"] == 1, found
    failed = json.loads(server.wait_log(".*an error in a handler.*").group(0))
    assert failed["route"] == "/" and isinstance(failed["connection"], int)
