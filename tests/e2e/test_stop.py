# SPDX-License-Identifier: MIT
"""How a server stops: who is told when, what is finished before, what comes after stop_delay and at the end of
drain_timeout."""
import collections
import os
import select
import signal
import struct
import time

import pytest
from conftest import CLOSE, PATIENCE, TEXT, close_payload, run

MANY = int(os.environ.get("TIDEWIRE_TEST_SOCKETS", "300"))
STOPPING = (CLOSE, close_payload(1001, b"server is stopping"))

ECHO = 'app.websocket("echo", function(ws) ws:on_text(function(ws, text) ws:send(text) end) end)\n'

# Its answer is there when the file is.
SLOW = ECHO + """app.websocket("slow", function(ws)
  ws:on_text(function(ws, path)
    log.info("waits")
    repeat app.sleep(0.01) until io.open(path)
    ws:send("answer")
  end)
end)
"""


def leave(client):
    """Takes the 1001, answers, and sees the end."""
    assert client.frame() == STOPPING
    client.send_frame(CLOSE, close_payload(1001))
    client.expect_end()
    client.close()


def until_one_is_told(clients):
    poll = select.poll()
    for client in clients:
        poll.register(client.sock, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)


@pytest.mark.parametrize("workers", [1, 2])
def test_many_are_told_in_slices_and_each_once(serve, workers):
    """Those whose turn has not come are served as before."""
    server = serve(ECHO, workers=workers, drain_timeout=4)
    clients = [server.raw("/echo") for _ in range(MANY)]
    server.send_signal(signal.SIGTERM)
    codes, echoes = collections.Counter(), 0
    until_one_is_told(clients)
    for client in clients:
        client.send_frame(TEXT, "still there?")
    for client in clients:
        opcode, payload = client.frame()
        if opcode == TEXT:
            echoes += 1
            assert payload == b"still there?"
            opcode, payload = client.frame()
        assert opcode == CLOSE
        codes[struct.unpack(">H", payload[:2])[0]] += 1
        client.send_frame(CLOSE, payload[:2])
        client.expect_end()
        client.close()
    assert server.stop(None) == 0
    assert codes == {1001: MANY}
    assert echoes > 0
    assert "drain_timeout" not in server.log


def test_few_are_told_at_once(serve):
    server = serve(ECHO, drain_timeout=3600)
    clients = [server.raw("/echo") for _ in range(20)]
    server.send_signal(signal.SIGTERM)
    for client in clients:
        leave(client)
    assert server.stop(None) == 0


def test_a_second_signal_between_the_slices_leaves_at_once(serve):
    server = serve(ECHO, drain_timeout=3600, close_timeout=3600)
    clients = [server.raw("/echo") for _ in range(150)]
    server.send_signal(signal.SIGTERM)
    until_one_is_told(clients)
    assert server.stop() == 0
    assert "SIGTERM again: leaving at once" in server.log


# ---- what is finished before ----

def test_an_answer_in_flight_and_messages_behind_it_are_finished(serve, tmp_path):
    server = serve(SLOW, drain_timeout=3600)
    there = tmp_path / "there"
    with server.raw("/slow") as busy, server.raw("/echo") as idle:
        busy.send_frame(TEXT, str(there))
        busy.send_frame(TEXT, str(there))
        server.wait_log("waits")
        server.send_signal(signal.SIGTERM)
        leave(idle)
        there.touch()
        assert (busy.text(), busy.text()) == ("answer", "answer")
        leave(busy)
    assert server.stop(None) == 0
    assert server.log.count("waits") == 2


@pytest.mark.parametrize("many", [False, True])
def test_a_handler_that_goes_on_waiting_is_told_at_half_of_drain_timeout(serve, tmp_path, many):
    server = serve(SLOW, drain_timeout=2)
    others = [server.raw("/echo") for _ in range(150 if many else 1)]
    with server.raw("/slow") as busy:
        busy.send_frame(TEXT, str(tmp_path / "never"))
        server.wait_log("waits")
        server.send_signal(signal.SIGTERM)
        for client in others:
            leave(client)
        assert busy.frame() == STOPPING
        busy.send_frame(CLOSE, close_payload(1001))
        busy.expect_end()
    assert server.stop(None) == 0


def test_a_route_function_that_waits_puts_nothing_off(serve):
    server = serve("""app.websocket("clock", function(ws)
        while true do ws:send("tick") app.sleep(3600) end
      end)""", drain_timeout=3600)
    with server.raw("/clock") as client:
        assert client.text() == "tick"
        server.send_signal(signal.SIGTERM)
        leave(client)
    assert server.stop(None) == 0


def test_what_is_queued_is_sent_before_the_close(serve):
    server = serve("""app.websocket("flood", function(ws)
        for i = 1, 200 do ws:send(("%03d"):format(i) .. ("x"):rep(65536)) end
        log.info("queued", ws.buffered > 0)
      end)""", drain_timeout=3600, close_timeout=3600, send_limit="64m")
    with server.raw("/flood") as client:
        server.wait_log("queued true")
        server.send_signal(signal.SIGTERM)
        server.wait_log("stopping")
        assert [int(client.text()[:3]) for _ in range(200)] == list(range(1, 201))
        leave(client)
    assert server.stop(None) == 0


# ---- HTTP ----

SITE = """
app.get("say/:word", function(req) return req.params.word end)
app.post("len", function(req) return tostring(#req.body) end)
app.websocket("ws", function() end)
"""


def until_refused(server):
    """Returns when the worker has closed its listener, hence knows that it is stopping."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            server.raw().close()
        except ConnectionError:
            return
    raise AssertionError("it still accepts")


def get(path):
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def expect_last(client, status, body):
    answer = client.response()
    assert answer.status == status and body in answer.body and answer.headers["connection"] == "close"
    client.expect_end()


def test_a_connection_between_two_requests_is_closed_at_once(serve):
    server = serve(SITE, drain_timeout=3600, keep_alive_timeout=3600)
    with server.raw() as idle:
        idle.send(get("/say/a"))
        assert idle.response().body == "a"
        server.send_signal(signal.SIGTERM)
        idle.expect_end()
    assert server.stop(None) == 0


def test_a_new_connection_may_ask_once_but_not_for_a_websocket(serve):
    """Its request was on its way when the listener was closed."""
    server = serve(SITE, drain_timeout=3600)
    with server.raw() as plain, server.raw() as upgrade:
        server.send_signal(signal.SIGTERM)
        until_refused(server)
        plain.send(get("/say/b") + get("/say/c"))
        expect_last(plain, 200, "b")
        upgrade.handshake("/ws")
        expect_last(upgrade, 503, "stopping")
    assert server.stop(None) == 0


def test_a_request_whose_body_is_on_its_way_is_answered(serve):
    server = serve(SITE, drain_timeout=3600)
    with server.raw() as client, server.raw() as idle:
        server.send_apart(client, b"POST /len HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabcde")
        server.send_signal(signal.SIGTERM)
        idle.expect_end()  # at the end of its second
        client.send(b"f")
        expect_last(client, 200, "6")
    assert server.stop(None) == 0


def test_a_handshake_that_is_decided_too_late_is_refused(serve):
    server = serve("""app.websocket("x", {should_upgrade = function()
        log.info("asked") app.sleep(0.3) return true
      end}, function() log.info("open") end)""", drain_timeout=3600)
    with server.raw() as client:
        client.handshake("/x")
        server.wait_log("asked")
        server.send_signal(signal.SIGTERM)
        expect_last(client, 503, "stopping")
    assert server.stop(None) == 0
    assert "open" not in server.log


# ---- the end ----

def test_who_does_not_answer_is_cut_and_that_is_logged(serve):
    server = serve(ECHO + "app.on_stop(function() log.info('on_stop ran') end)", drain_timeout=0.4, close_timeout=3600)
    clients = [server.raw("/echo") for _ in range(150)]
    server.send_signal(signal.SIGTERM)
    for client in clients:
        assert client.frame() == STOPPING
    assert server.stop(None) == 0
    assert "150 connections were still open at the end of drain_timeout; cut" in server.log
    assert "on_stop ran" in server.log
    for client in clients:
        client.close()


# ---- stop_delay ----

def test_during_stop_delay_it_is_not_ready_but_serves(serve):
    server = serve(ECHO, stop_delay=3600)
    with server.raw("/echo") as before:
        server.send_signal(signal.SIGTERM)
        server.wait_log("SIGTERM: stopping")
        assert run("health", "--control", server.control_path).stdout == "error stopping\n"
        with server.raw("/echo") as after:
            for client in before, after:
                client.send_frame(TEXT, "x")
                assert client.text() == "x"
    assert server.stop(signal.SIGINT) == 0
    assert "SIGINT again: leaving at once" in server.log


def test_after_stop_delay_everybody_is_told(serve):
    server = serve(ECHO, stop_delay=0.3)
    with server.raw("/echo") as client:
        server.send_signal(signal.SIGTERM)
        leave(client)
    assert server.stop(None) == 0
