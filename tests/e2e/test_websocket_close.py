# SPDX-License-Identifier: MIT
"""How a WebSocket ends (RFC 6455, 5.5.1 and 7), whoever begins, and that on_close hears of it exactly once."""
import re
import signal
import socket
import struct

import pytest

from conftest import BINARY_OP, CLOSE, CONT, PING, PONG, TEXT, close_payload, frame

# "door" runs the Lua it is sent, which sees `ws` and `note`; "notes" tells what has been noted, a line for each.
SCRIPT = """
local notes = {}

local function note(...)
  local words = table.pack(...)
  for i = 1, words.n do words[i] = tostring(words[i]) end
  notes[#notes + 1] = table.concat(words, " ")
end

local function noted_close(_, code, reason)
  note(string.format("closed %d %q", code, reason))
end

app.websocket("door", function(ws)
  ws:on_close(noted_close)
  ws:on_text(function(_, source)
    local chunk = assert(load(source, "=test", "t", setmetatable({ws = ws, note = note}, {__index = _G})))
    chunk()
  end)
  ws:on_binary(function(_, bytes) ws:send_binary(bytes) end)
end)

app.websocket("quick", function(ws)
  ws:on_close(noted_close)
  ws:close(4000, "no entry")
  note("second close", ws:close(4001))
end)

app.websocket("broken", function(ws)
  ws:on_close(noted_close)
  error("broken on purpose")
end)

app.websocket("notes", function(ws)
  ws:on_text(function() ws:send(table.concat(notes, "\\n")) end)
end)
"""

VALID = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
SENDABLE = [code for code in VALID if code not in (1010, 1014)]
INVALID = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535]


@pytest.fixture
def server(serve):
    return serve(SCRIPT)


@pytest.fixture
def hasty(serve):
    """One that does not wait long for the peer's Close."""
    return serve(SCRIPT, close_timeout=0.1)


def notes(server):
    """All that was noted, once every connection is gone for good."""
    server.wait_metric("tidewire_connections", 0)
    assert server.metrics()["tidewire_websockets"] == 0
    with server.raw("/notes") as client:
        client.send_frame(TEXT, "?")
        return client.text().splitlines()


def closed(code, reason=""):
    return f'closed {code} "{reason}"'


# ---- the peer begins (5.5.1) ----

@pytest.mark.parametrize("code", VALID)
def test_a_valid_code_is_echoed_5_5_1(server, code):
    with server.raw("/door") as client:
        client.send_frame(CLOSE, close_payload(code))
        assert client.expect_close(code) == ""
    assert notes(server) == [closed(code)]


def test_a_close_without_a_code_is_answered_without_one_and_reported_as_1005_7_1_5(server):
    with server.raw("/door") as client:
        client.send_frame(CLOSE)
        client.expect_close(None)
    assert notes(server) == [closed(1005)]


@pytest.mark.parametrize("code", INVALID)
def test_an_invalid_code_is_refused_7_4(server, code):
    for reason in (b"", b"why"):
        with server.raw("/door") as client:
            client.send_frame(CLOSE, close_payload(code, reason))
            client.expect_close(1002)
    assert notes(server) == [closed(1002)] * 2


def test_a_payload_of_one_byte_is_refused_5_5_1(server):
    for byte in (b"\0", b"\x03", b"\xff"):
        with server.raw("/door") as client:
            client.send_frame(PING, b"\xe8" * 125)  # what a code could wrongly be completed with: 03 e8 is 1000
            assert client.frame()[0] == PONG
            client.send_frame(CLOSE, byte)
            client.expect_close(1002)
    assert notes(server) == [closed(1002)] * 3


@pytest.mark.parametrize("reason", [
    b"\xff", b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"half \xe2\x82", b"good, then \xff",
    b"x" * 122 + b"\xc3"], ids=lambda reason: reason[-4:].hex())
def test_a_reason_that_is_not_utf8_is_refused_with_1007_5_5_1(server, reason):
    with server.raw("/door") as client:
        client.send_frame(CLOSE, close_payload(1000, reason))
        client.expect_close(1007)
    assert notes(server) == [closed(1007)]


@pytest.mark.parametrize("reason", ["done", "auf Wiedersehen, tschüß €😀", "x" * 123, "é" * 61 + "!"])
def test_the_reason_reaches_on_close_7_1_6(server, reason):
    with server.raw("/door") as client:
        client.send_frame(CLOSE, close_payload(4711, reason.encode()))
        assert client.expect_close(4711) == ""
    assert notes(server) == [closed(4711, reason)]


def test_a_reason_may_contain_nul_7_1_6(server):
    with server.raw("/door") as client:
        client.send_frame(CLOSE, close_payload(1000, b"a\0b"))
        client.expect_close(1000)
    assert notes(server) == [closed(1000, r"a\0b")]


def test_a_close_cut_at_every_byte(server):
    data = frame(CLOSE, close_payload(3210, b"in pieces"))
    for i in range(1, len(data)):
        with server.raw("/door") as client:
            server.send_apart(client, data[:i], data[i:])
            client.expect_close(3210)
    assert notes(server) == [closed(3210, "in pieces")] * (len(data) - 1)


@pytest.mark.parametrize("after", [
    frame(TEXT, "note('heard')"), frame(PING, b"?"), frame(CLOSE, close_payload(1001, b"no, this")), frame(3),
    frame(TEXT, b"\xff"), frame(TEXT, "unmasked", mask=None), b"\0" * 100_000, frame(TEXT, "half")[:5]],
    ids=["text", "ping", "close", "opcode", "utf8", "unmasked", "rubbish", "half"])
def test_data_after_a_close_is_ignored_5_5_1(server, after):
    data = frame(CLOSE, close_payload(1000, b"bye"))
    with server.raw("/door") as client:
        client.send(data + after)
        client.expect_close(1000)
    with server.raw("/door") as client:
        client.send(data)
        client.expect_close(1000)
        client.send(after)
    assert notes(server) == [closed(1000, "bye")] * 2


def test_messages_before_a_close_are_answered_first(server):
    with server.raw("/door") as client:
        client.send(frame(BINARY_OP, b"1") + frame(TEXT, "ws:send('2')") + frame(CLOSE, close_payload(1000)))
        assert client.frame() == (BINARY_OP, b"1")
        assert client.text() == "2"
        client.expect_close(1000)
    assert notes(server) == [closed(1000)]


def test_the_server_does_not_wait_long_for_the_tcp_end_7_1_1(hasty):
    with hasty.raw("/door") as client:
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
        hasty.wait_metric("tidewire_connections", 0)
    assert notes(hasty) == [closed(1000)]


# ---- the server begins (7.1.2) ----

def lua_close(client, arguments=""):
    client.send_frame(TEXT, f"note(ws:close({arguments}))")


@pytest.mark.parametrize("code", SENDABLE)
def test_close_sends_its_code_and_reason_7_4(server, code):
    with server.raw("/door") as client:
        lua_close(client, f"{code}, 'weil es späť ist'")
        assert client.frame() == (CLOSE, close_payload(code, "weil es späť ist".encode()))
        client.send_frame(CLOSE, close_payload(code))
        client.expect_end()
    assert notes(server) == ["true", closed(code)]


@pytest.mark.parametrize("arguments, code, reason", [
    ("", 1000, b""), ("nil, 'over'", 1000, b"over"), ("4000", 4000, b""), ("4000, nil", 4000, b""),
    ("1000, ('x'):rep(123)", 1000, b"x" * 123), ("1000, 'a\\0b'", 1000, b"a\0b")],
    ids=["none", "reason", "code", "nil", "longest", "nul"])
def test_close_has_defaults(server, arguments, code, reason):
    with server.raw("/door") as client:
        lua_close(client, arguments)
        assert client.frame() == (CLOSE, close_payload(code, reason))
        client.send_frame(CLOSE, close_payload(code))
        client.expect_end()
    assert notes(server) == ["true", closed(code)]


@pytest.mark.parametrize("arguments", [
    "0", "-1", "999", "1004", "1005", "1006", "1010", "1014", "1015", "1016", "2999", "5000", "65536", "1000.5",
    "4294968296", "'soon'", "{}", "1000, ('x'):rep(124)", "1000, ('é'):rep(62)", r"1000, '\xff'", r"1000, '\xe2\x82'",
    "1000, {}"])
def test_close_raises_for_what_may_not_be_sent_and_the_error_closes_with_1011_7_4(server, arguments):
    with server.raw("/door") as client:
        lua_close(client, arguments)
        client.expect_close(1011)
    assert notes(server) == [closed(1011)]
    server.wait_log(r"test:1: ")  # the script's own line is named


def test_close_may_be_called_in_the_function_of_the_route(server):
    with server.raw("/quick") as client:
        assert client.frame() == (CLOSE, close_payload(4000, b"no entry"))
        client.send_frame(CLOSE, close_payload(4000))
        client.expect_end()
    assert notes(server) == ["second close nil closed", closed(4000)]


def test_a_second_close_returns_nil_and_closed(server):
    with server.raw("/door") as client:
        client.send_frame(TEXT, "note(ws:close(4000)) note(ws:close(4001, 'again')) note(ws.is_closed)")
        assert client.frame() == (CLOSE, close_payload(4000))
        client.send_frame(CLOSE, close_payload(4000))
        client.expect_end()
    assert notes(server) == ["true", "nil closed", "true", closed(4000)]


def test_send_after_close_returns_nil_and_closed(server):
    with server.raw("/door") as client:
        client.send_frame(TEXT, "ws:send('before') ws:close() note(ws:send('after')) note(ws:send({1})) "
                                "note(ws:send_binary('after'))")
        assert client.text() == "before"
        assert client.frame() == (CLOSE, close_payload(1000))
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_end()
    assert notes(server) == ["nil closed"] * 3 + [closed(1000)]


def test_in_on_close_nothing_can_be_sent(server):
    with server.raw("/door") as client:
        client.send_frame(TEXT, "ws:on_close(function(w, code) note(code, w.is_closed, w.close_code)"
                                " note(w:send('late')) note(w:close(4000)) end)")
        client.send_frame(CLOSE, close_payload(3003))
        client.expect_close(3003)
    assert notes(server) == ["3003 true 3003", "nil closed", "nil closed"]


def test_a_ws_kept_after_its_end_is_closed(server):
    with server.raw("/door") as client:
        client.send_frame(TEXT, "rawset(_G, 'kept', ws)")
        client.send_frame(CLOSE, close_payload(3003))
        client.expect_close(3003)
    server.wait_metric("tidewire_connections", 0)
    with server.raw("/door") as client:
        client.send_frame(TEXT, "note(kept:send('x')) note(kept:close()) note(kept.is_closed, kept.close_code)")
        client.send_frame(CLOSE)
        client.expect_close(None)
    assert notes(server) == [closed(3003), "nil closed", "nil closed", "true 3003", closed(1005)]


# ---- what the peer answers (7.1.5) ----

@pytest.mark.parametrize("answer, code, reason", [
    (b"", 1005, ""), (close_payload(4000, b"agreed"), 4000, "agreed"), (close_payload(1001, b"why"), 1001, "why")],
    ids=["no code", "same code", "other code"])
def test_on_close_gets_what_the_peer_answered_7_1_5(server, answer, code, reason):
    with server.raw("/door") as client:
        lua_close(client, "4000, 'mine'")
        assert client.frame() == (CLOSE, close_payload(4000, b"mine"))
        client.send_frame(CLOSE, answer)
        client.expect_end()
    assert notes(server) == ["true", closed(code, reason)]


@pytest.mark.parametrize("answer", [
    frame(CLOSE, b"\x03"), frame(CLOSE, close_payload(1005)), frame(CLOSE, close_payload(1000, b"\xff")), frame(3),
    frame(TEXT, b"\xff"), frame(CLOSE, close_payload(1000), mask=None), frame(CONT, b"")],
    ids=["one byte", "code", "reason", "opcode", "utf8", "unmasked", "continuation"])
def test_a_faulty_answer_ends_it_without_a_second_close_7_1_7(server, answer):
    with server.raw("/door") as client:
        lua_close(client)
        assert client.frame() == (CLOSE, close_payload(1000))
        client.send(answer)
        client.expect_end()
    ended = [line for line in notes(server) if line.startswith("closed")]
    assert len(ended) == 1


def test_what_the_peer_sends_before_its_answer_is_not_handled_1_4(server):
    with server.raw("/door") as client:
        lua_close(client)
        client.send(frame(TEXT, "note('heard')") + frame(PING, b"?") + frame(PONG) + frame(TEXT, "a", fin=False))
        assert client.frame() == (CLOSE, close_payload(1000))
        client.send(frame(CONT, "b" * 70_000) + frame(CLOSE, close_payload(1000)))
        client.expect_end()
    assert notes(server) == ["true", closed(1000)]


def test_closes_that_cross_7_1(server):
    with server.raw("/door") as client:
        client.send(frame(TEXT, "note(ws:close(4001))") + frame(CLOSE, close_payload(4002)))
        assert client.frame() == (CLOSE, close_payload(4001))
        client.expect_end()
    assert notes(server) == ["true", closed(4002)]


def test_a_peer_that_does_not_answer_is_cut_after_close_timeout_7_1_1(hasty):
    with hasty.raw("/door") as client:
        lua_close(client, "4000")
        client.expect_close(4000)
        assert notes(hasty) == ["true", closed(1006)]


def test_a_peer_that_talks_on_instead_of_answering_is_cut_as_well(hasty):
    with hasty.raw("/door") as client:
        lua_close(client, "4000")
        assert client.frame() == (CLOSE, close_payload(4000))
        with pytest.raises(OSError):
            for _ in range(1_000_000):
                client.send_frame(PING, b"not yet")
    assert notes(hasty) == ["true", closed(1006)]


def test_an_answer_after_close_timeout_changes_nothing(hasty):
    with hasty.raw("/door") as client:
        lua_close(client, "4000")
        client.expect_close(4000)
        hasty.wait_metric("tidewire_connections", 0)
        client.send_frame(CLOSE, close_payload(4000))
    assert notes(hasty) == ["true", closed(1006)]


def test_an_answer_and_silence_after_it(hasty):
    """The peer closes well, but leaves its TCP connection open."""
    with hasty.raw("/door") as client:
        lua_close(client, "4000")
        assert client.frame() == (CLOSE, close_payload(4000))
        client.send_frame(CLOSE, close_payload(4000))
        client.expect_end()
        assert notes(hasty) == ["true", closed(4000)]


# ---- no Close at all (7.1.5) ----

BEGUN = {"nothing": b"", "half a header": frame(TEXT, "abc")[:3], "half a payload": frame(TEXT, "abc", length=90),
         "half a ping": frame(PING, b"abc", length=90), "half a message": frame(TEXT, "abc", fin=False),
         "half a close": frame(CLOSE, close_payload(1000))[:7]}
begun = pytest.mark.parametrize("data", BEGUN.values(), ids=BEGUN.keys())


@begun
def test_a_tcp_end_without_a_close_is_1006_7_1_5(server, data):
    with server.raw("/door") as client:
        client.send(data)
    assert notes(server) == [closed(1006)]


@begun
def test_a_tcp_reset_is_1006_7_1_5(server, data):
    with server.raw("/door") as client:
        server.send_apart(client, data or frame(PONG))
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert notes(server) == [closed(1006)]


def test_a_half_closed_tcp_connection_is_1006_7_1_5(server):
    with server.raw("/door") as client:
        client.sock.shutdown(socket.SHUT_WR)
        client.expect_end()
    assert notes(server) == [closed(1006)]


def test_a_tcp_end_instead_of_an_answer_is_1006_7_1_5(server):
    with server.raw("/door") as client:
        lua_close(client)
        assert client.frame() == (CLOSE, close_payload(1000))
    assert notes(server) == ["true", closed(1006)]


def test_a_client_gone_right_after_its_handshake(server):
    for _ in range(20):
        with server.raw() as client:
            client.handshake("/door")
    server.wait_metric("tidewire_upgrades_total", 20)
    assert notes(server) == [closed(1006)] * 20


# ---- faults and errors ----

@pytest.mark.parametrize("data, code", [
    (frame(3), 1002), (frame(TEXT, b"\xff"), 1007), (frame(BINARY_OP, b"", length=1 << 40), 1009),
    (frame(TEXT, "error('on purpose')"), 1011), (frame(TEXT, "error()"), 1011), (frame(TEXT, "error({})"), 1011)])
def test_on_close_hears_once_of_a_fault_7_1_7(server, data, code):
    with server.raw("/door") as client:
        client.send(data + data + frame(CLOSE, close_payload(1000)))
        client.expect_close(code)
    assert notes(server) == [closed(code)]


def test_a_failed_connection_is_cut_though_the_peer_stays_7_1_7(hasty):
    with hasty.raw("/door") as client:
        client.send_frame(3)
        client.expect_close(1002)
        assert notes(hasty) == [closed(1002)]


def test_an_error_after_close_does_not_send_a_second_one(server):
    with server.raw("/door") as client:
        client.send_frame(TEXT, "ws:close(4000) error('on purpose')")
        client.expect_close(4000)
    ended = notes(server)
    assert len(ended) == 1 and ended[0].startswith("closed")


def test_an_error_in_the_function_of_the_route_closes_with_1011(server):
    with server.raw("/broken") as client:
        client.expect_close(1011)
    assert notes(server) == [closed(1011)]
    server.wait_log("broken on purpose")


def test_an_error_in_on_close_is_logged_and_harmless(server):
    with server.raw("/door") as client:
        client.send_frame(TEXT, "ws:on_close(function() note('once') error('in on_close') end)")
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    server.wait_log("in on_close")
    assert notes(server) == ["once"]


# ---- the server stops ----

LOGGING = """
app.websocket("door", function(ws)
  ws:on_close(function(_, code) log.info("on_close " .. code) end)
end)
"""


def test_a_stopping_server_closes_with_1001_and_takes_the_answer(serve):
    server = serve(LOGGING)
    with server.raw("/door") as client:
        server.send_signal(signal.SIGTERM)
        assert client.frame()[1][:2] == close_payload(1001)
        client.send_frame(CLOSE, close_payload(1001))
        client.expect_end()
    assert server.stop(None) == 0
    assert re.findall(r"on_close (\d+)", server.log) == ["1001"]


def test_a_peer_still_silent_at_the_end_of_drain_timeout_is_1006(serve):
    server = serve(LOGGING, drain_timeout=0.2, close_timeout=60)
    with server.raw("/door") as silent, server.raw("/door") as never_reads:
        server.send_signal(signal.SIGTERM)
        silent.expect_close(1001)
        assert server.stop(None) == 0
        assert never_reads.frame()[0] == CLOSE
    assert re.findall(r"on_close (\d+)", server.log) == ["1006"] * 2
