# SPDX-License-Identifier: MIT
"""Signals, workers, and what the passing of time does to connections: reload, leaving, keep-alive, slow readers."""
import re
import select
import signal
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from conftest import (BINARY, BINARY_OP, CLOSE, CONT, PATIENCE, PING, PONG, TEXT, Raw, close_payload, environment,
                      frame, not_under_tsan, run)

REFUSED = 'tidewire_reloads_total{outcome="refused"}'
TAKEN = 'tidewire_reloads_total{outcome="ok"}'
GAUGES = ["tidewire_connections", "tidewire_websockets", "tidewire_frame_contexts", "tidewire_reassembly_bytes",
          "tidewire_send_queue_bytes"]


def version(name, before=""):
    """A script whose connections tell which code and generation serves them."""
    return before + f"""
app.websocket("/x", function(ws)
  ws:send("{name} " .. app.generation)
  ws:on_text(function(ws, text) ws:send("{name} " .. app.generation .. " " .. text) end)
  ws:on_close(function(ws, code) log.info("closed in {name}:", code) end)
end)
"""


def opened(server, greeting):
    """A new connection, which must be served by the code that greets so."""
    client = server.raw("/x")
    assert client.text() == greeting
    return client


def assert_served_by(client, greeting):
    client.send_frame(TEXT, "still there")
    assert client.text() == f"{greeting} still there"


def assert_moves_to(client, greeting):
    """It is greeted anew, by the code that has taken it over, and served by that."""
    assert client.text() == greeting
    assert_served_by(client, greeting)


def settled(server):
    """All signals sent so far have been seen by the main loop: the second answer comes from a later iteration."""
    server.ask("health")
    server.ask("health")


# ---- reload ----


@pytest.mark.parametrize("workers", [1, 3])
def test_new_connections_get_the_new_code_and_live_ones_move_to_it(serve, workers):
    server = serve(version("one"), workers=workers)
    with opened(server, "one 1") as old:
        assert server.reload(version("two"))
        assert_moves_to(old, "two 2")
        for _ in range(5 * workers):
            with opened(server, "two 2") as new:
                assert_served_by(new, "two 2")
                assert_served_by(old, "two 2")
        assert server.ask("health").startswith("ok generation 2, ")
        assert server.metrics()["tidewire_generation"] == 2
        old.send_frame(CLOSE, close_payload(1000))
        old.expect_close(1000)
        server.wait_log("closed in two: 1000")
        assert "closed in one" not in server.log


def test_a_reload_without_a_change_makes_a_generation(serve):
    server = serve(version("same"))
    assert server.reload() and server.reload()
    opened(server, "same 3").close()


def test_routes_come_and_go_with_the_code(serve):
    server = serve('app.websocket("/x", function(ws) ws:send("x") end)')
    with server.raw("/x") as old:
        assert old.text() == "x"
        assert server.reload('app.websocket("/y", function(ws) ws:send("y") end)')
        with server.raw("/y") as new, server.raw() as plain:
            assert new.text() == "y"
            plain.handshake("/x")
            assert plain.response().status == 404
        opcode, payload = old.frame()  # its route has gone
        assert (opcode, payload[:2]) == (CLOSE, close_payload(1012))


def missing(server):
    server.script.unlink()


def folder_instead(server):
    server.script.unlink()
    server.script.mkdir()


BROKEN = {
    "syntax error": ("x = = 1\n", [r"main\.lua:1: unexpected symbol"]),
    "load error": (version("bad") + "\nerror('on purpose')", [r"main\.lua:8: on purpose", "stack traceback:"]),
    "nil called": ("\n\nnothing()", [r"main\.lua:3: .*global 'nothing'", r"main\.lua:3: in main chunk"]),
    "endless load": ("\nwhile true do pcall(function() while true do end end) end",
                     [r"main\.lua:2: cut: it ran longer than 0\.3 s \(load_budget\)"]),
    "missing module": ("require('gone')", [r"module 'gone' not found", r"main\.lua:1: in main chunk"]),
    "duplicate routes": ('app.websocket("/a", print)\napp.websocket("a", print)', [r"main\.lua:2: .*main\.lua:1\b"]),
    "too much memory": ("T = {} for i = 1, math.huge do T[i] = {} end", ["not enough memory"]),
    "workers disagree": ("if app.worker == 2 then app.websocket('/only-there', print) end",
                         ["worker 2 registers other routes than worker 1"]),
    "missing": (missing, [r"cannot read .*main\.lua: No such file"]),
    "folder": (folder_instead, [r"cannot read .*main\.lua: it is a directory"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_script_leaves_the_old_one_serving(serve, case):
    text, patterns = BROKEN[case]
    server = serve(version("good"), workers=2, load_budget="0.3", vm_memory="8m")
    with opened(server, "good 1") as old:
        if callable(text):
            text(server)
            text = None
        start = server.mark()
        assert not server.reload(text)
        for pattern in patterns:
            server.wait_log(pattern, start)
        server.wait_log("reload refused, generation 1 goes on: ", start)
        assert_served_by(old, "good 1")
        for _ in range(5):
            opened(server, "good 1").close()
        metrics = server.metrics()
        assert (metrics[REFUSED], metrics[TAKEN], metrics["tidewire_generation"]) == (1, 0, 1)
        assert server.ask("health").startswith("ok generation 1, 2 workers")
        if server.script.is_dir():
            server.script.rmdir()
        assert server.reload(version("better"))
        opened(server, "better 2").close()
        assert_moves_to(old, "better 2")


def test_a_stuck_load_leaves_the_old_code_serving(serve):
    server = serve(version("good"), load_budget="0.05")
    server.script.write_text("local _ = ('a'):rep(60):find(('.-'):rep(5) .. 'b')\nwhile true do end", encoding="utf-8")
    server.send_signal(signal.SIGHUP)
    server.wait_log("stuck: .*C function")
    opened(server, "good 1").close()
    assert server.ask("health").startswith("ok ")
    server.wait_log(r"reload refused, .*main\.lua:[12]: cut: ")


def test_fifty_reloads_with_live_connections(serve):
    server = serve(version("v1"), workers=2, log_repeat=0)
    clients = [opened(server, "v1 1")]
    for i in range(2, 52):
        assert server.reload(version(f"v{i}"))
        for client in clients:
            assert_moves_to(client, f"v{i} {i}")
        clients.append(opened(server, f"v{i} {i}"))
        if i % 7 == 0:
            assert not server.reload("x = = 1")
    for client in clients:
        assert_served_by(client, "v51 51")
        client.close()
    server.wait_metric("tidewire_websockets", 0)
    metrics = server.metrics()
    assert (metrics[TAKEN], metrics[REFUSED]) == (50, 7)
    server.stop()
    assert len(re.findall(r"closed in v51: 1006", server.log)) == len(re.findall("closed in", server.log)) == 51


@not_under_tsan
@pytest.mark.parametrize("stays", [True, False])
def test_old_code_is_freed_when_its_last_connection_has_moved_or_gone(serve, stays):
    blob = "BLOB = ('x'):rep(64 * 1024 * 1024)"
    server = serve(version("v", blob))
    clients = []
    for i in range(2, 17):
        clients.append(opened(server, f"v {i - 1}"))
        assert server.reload(version("v", blob))
        if not stays:
            clients.pop().close()
    server.wait_metric("tidewire_websockets", len(clients))
    for client in clients:
        while client.text() != "v 16":
            pass
    for _ in range(100):  # the reaper works on its own
        status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
        resident, = re.findall(r"^VmRSS:\s+(\d+) kB", status, re.M)
        if int(resident) < 600 * 1024:
            return
        settled(server)
    pytest.fail(f"{resident} kB resident after 16 generations of 64 MiB each")


LAZY = """
app.websocket("/x", function(ws)
  ws:send("" .. app.worker)
  ws:on_text(function(ws)
    package.loaded.part = nil
    ws:send(require("part") .. " " .. loadfile(FOLDER .. "/other.lua")())
  end)
end)
"""


def test_files_read_late_belong_to_their_generation(serve, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()

    def put(text):
        for name in ("part.lua", "other.lua"):
            (folder / name).write_text(f"return '{text}'", encoding="utf-8")

    def ask(client):
        client.send_frame(TEXT, "?")
        return client.text()
    put("first")
    server = serve(f"FOLDER = '{folder}' package.path = FOLDER .. '/?.lua'" + LAZY, workers=2)
    old = one_on_each_worker(server, 2)
    assert ask(old[1]) == "first first"
    put("second")
    assert ask(old[1]) == "first first", "the old generation changes under its connections"
    assert ask(old[2]) == "first first", "two workers of one generation run different code"
    assert server.reload()
    for client in one_on_each_worker(server, 2).values():
        assert ask(client) == "second second"
    for worker, client in old.items():
        assert client.text() == f"{worker}"  # taken over
        assert ask(client) == "second second"


def test_old_code_that_still_runs_reads_its_own_files(serve, tmp_path):
    part, gate = tmp_path / "part.lua", tmp_path / "gate"
    part.write_text("return 'first'", encoding="utf-8")
    server = serve(f"""package.path = '{tmp_path}/?.lua' require("part")
app.spawn(function()
  while not io.open("{gate}") do app.sleep(0.001) end
  package.loaded.part = nil
  log.info("it reads the", require("part"))
end)""")
    part.write_text("return 'second'", encoding="utf-8")
    assert server.reload("app.get('other', function() return '' end)")
    gate.touch()
    server.wait_log("it reads the first")


def test_a_changed_module_is_picked_up_by_reload(serve):
    server = serve("PART = 'none'" + version("x"))
    part = server.folder / "part.lua"
    for i in range(2, 5):
        part.write_text(f"return 'part{i}'", encoding="utf-8")
        assert server.reload("local part = require('part')" + version('" .. part .. "'))
        opened(server, f"part{i} {i}").close()


GATE = """
log.info("waits at the gate")
while not io.open("{0}") do end
"""


def test_signals_while_a_load_runs_make_one_more_load(serve, tmp_path):
    gate = tmp_path / "gate"
    server = serve(version("one"), load_budget=3600)
    server.script.write_text(version("two", GATE.format(gate)), encoding="utf-8")
    server.send_signal(signal.SIGHUP)
    server.wait_log("waits at the gate")
    for i in range(20):
        server.script.write_text(version(f"burst{i}"), encoding="utf-8")
        server.send_signal(signal.SIGHUP)
        settled(server)
    opened(server, "one 1").close()
    gate.touch()
    server.wait_log("generation 3 serves new connections")
    opened(server, "burst19 3").close()
    assert server.reload(version("last"))
    opened(server, "last 4").close()


def test_the_last_state_of_a_burst_wins(serve):
    server = serve(version("v0"))
    for i in range(1, 41):
        more = "app.on_start(function() log.info('v40 serves') end)" if i == 40 else ""
        server.script.write_text(version(f"v{i}", more), encoding="utf-8")
        server.send_signal(signal.SIGHUP)
    server.wait_log("v40 serves")
    settled(server)
    client = server.raw("/x")
    assert client.text().startswith("v40 ")


def test_reload_before_the_first_load_is_done(tmp_path):
    gate, script = tmp_path / "gate", tmp_path / "main.lua"
    script.write_text(version("one", GATE.format(gate)), encoding="utf-8")
    options = environment(listen="127.0.0.1:0", control=tmp_path / "control.sock", load_budget=3600)
    with subprocess.Popen([BINARY, script], env=options, text=True, stderr=subprocess.PIPE) as process:
        try:
            read_until(process, "waits at the gate")
            process.send_signal(signal.SIGHUP)
            done = run("health", env={"control": tmp_path / "control.sock"})
            assert (done.returncode, done.stdout) == (1, "error starting\n")
            gate.touch()
            read_until(process, "generation 2 serves new connections")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def read_until(process, mark):
    seen = ""
    while mark not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    return seen


# ---- leaving ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 3])
def test_live_sockets_get_1001_and_the_exit_code_is_0(serve, number, workers):
    server = serve(version("one"), workers=workers)
    clients = [opened(server, "one 1") for _ in range(20)]
    server.send_signal(number)
    for client in clients:
        assert client.frame() == (CLOSE, close_payload(1001, b"server is stopping"))
        client.send_frame(CLOSE, close_payload(1001))
        client.expect_end()
        client.close()
    assert server.stop(None) == 0
    assert server.log.count("closed in one: 1001") == 20
    assert f"{number.name}: stopping" in server.log and "drain_timeout" not in server.log


def test_messages_on_their_way_are_answered_before_the_goodbye(serve):
    server = serve("""app.websocket("/x", function(ws)
        ws:on_text(function(ws, text) ws:send(text) end)
    end)""")
    with server.raw("/x") as client:
        for i in range(100):
            client.send_frame(TEXT, f"{i}")
        assert client.text() == "0"
        server.send_signal(signal.SIGTERM)
        answers = 1
        while (got := client.frame())[0] == TEXT:
            assert got[1].decode() == f"{answers}"
            answers += 1
        assert got == (CLOSE, close_payload(1001, b"server is stopping"))
    assert server.stop(None) == 0


def test_nothing_is_accepted_while_stopping(serve):
    server = serve(version("one"), drain_timeout=3600, close_timeout=3600)
    with opened(server, "one 1") as client:
        server.send_signal(signal.SIGTERM)
        assert client.frame()[0] == CLOSE
        with socket.socket() as s:
            assert s.connect_ex(("127.0.0.1", server.port)) != 0
        server.send_signal(signal.SIGHUP)  # of no use any more
        client.send_frame(CLOSE, close_payload(1001))
        client.expect_end()
    assert server.stop(None) == 0
    assert "generation" not in server.log


@pytest.mark.parametrize("workers", [1, 3])
def test_peers_that_never_answer_are_cut_at_drain_timeout(serve, workers):
    server = serve(version("one"), workers=workers, drain_timeout="0.2", close_timeout=3600)
    clients = [opened(server, "one 1") for _ in range(10)]
    assert server.stop() == 0
    for client in clients:
        assert client.frame()[0] == CLOSE
        client.expect_end()
    assert server.log.count("closed in one: 1006") == 10
    cut = re.findall(r"warn .*?(\d+) connections? .*drain_timeout; cut", server.log)
    assert sum(map(int, cut)) == 10


def test_peers_that_never_read_are_cut_at_drain_timeout(serve):
    server = serve(SLOW, drain_timeout="0.2", close_timeout=3600, send_limit="1m")
    with narrow(server, "/flood") as client:
        client.send_frame(TEXT, "some")
        server.wait_log("sent some")
        assert server.stop() == 0


@pytest.mark.parametrize("sent", [b"", b"GET /x HTTP/1.1\r\nHos"])
def test_a_request_that_has_not_come_is_answered_503_at_most(serve, sent):
    server = serve(version("one"))
    with server.raw() as client:
        if sent:
            server.send_apart(client, sent)
        server.wait_metric("tidewire_connections", 1)
        server.send_signal(signal.SIGTERM)
        answer = b""
        while piece := client.sock.recv(65536):
            answer += piece
        assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")
    assert server.stop(None) == 0


@pytest.mark.parametrize("first, second", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM),
                                           (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_leaves_at_once(serve, first, second):
    server = serve(version("one"), drain_timeout=3600, close_timeout=3600)
    with opened(server, "one 1"):
        server.send_signal(first)
        server.wait_log("stopping")
        server.send_signal(second)
        assert server.stop(None) == 0
    assert f"{second.name} again: leaving at once" in server.log


def threads(server):
    """The names of its threads; none once it has ended."""
    try:
        return {path.read_text(encoding="ascii").strip() for path in Path(f"/proc/{server.pid}/task").glob("*/comm")}
    except OSError:  # one of them ended in the meantime
        return threads(server)


def test_a_second_signal_while_memory_is_freed_leaves_with_0_too(serve, tmp_path):
    pid_file = tmp_path / "pid"
    server = serve("HEAP = {} for i = 1, 1000000 do HEAP[i] = {} end" + version("one"), pid_file=pid_file)
    while "tidewire/1" not in threads(server):  # it gets its name when it runs
        pass
    server.send_signal(signal.SIGTERM)
    while "tidewire/1" in threads(server):
        pass
    assert server.stop(signal.SIGTERM) == 0
    assert not pid_file.exists() and not server.control_path.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_stopping_during_an_endless_handler(serve, workers):
    server = serve("""app.websocket("/x", function(ws)
        ws:on_text(function() log.info("spins") while true do end end)
        ws:on_close(function(ws, code) log.info("closed", code) end)
    end)""", handler_budget="0.3", close_timeout="0.2", workers=workers)
    with server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        server.wait_log("spins")
        assert server.stop() == 0
    assert "closed 1011" in server.log


def test_stopping_during_an_endless_reload(serve):
    server = serve(version("one"), load_budget=3600)
    server.script.write_text("log.info('loads') while true do pcall(function() while true do end end) end",
                             encoding="utf-8")
    server.send_signal(signal.SIGHUP)
    server.wait_log("loads")
    with opened(server, "one 1") as client:
        server.send_signal(signal.SIGTERM)
        assert client.frame()[0] == CLOSE
        client.send_frame(CLOSE, close_payload(1001))
        client.expect_end()
    assert server.stop(None) == 0


def test_stopping_right_after_a_reload(serve):
    server = serve(version("one"))
    for _ in range(3):
        server.send_signal(signal.SIGHUP)
    assert server.stop() == 0


# ---- signals that mean nothing ----


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGPIPE", "SIGURG", "SIGCHLD", "SIGWINCH"])
def test_harmless_signal(serve, name):
    server = serve("""app.websocket("/x", function(ws)
        ws:on_text(function(ws) local n = 0 for i = 1, 3000000 do n = n + 1 end ws:send("" .. n) end)
    end)""")
    with server.raw("/x") as client:
        for _ in range(5):
            client.send_frame(TEXT, "go")
            for _ in range(20):
                server.send_signal(getattr(signal, name))
            assert client.text() == "3000000"


def test_a_log_that_nobody_reads_any_more(tmp_path):
    script = tmp_path / "main.lua"
    script.write_text(version("one", "log.info('a line')"), encoding="utf-8")
    options = environment(listen="127.0.0.1:0", control=tmp_path / "control.sock")
    with subprocess.Popen([BINARY, script], env=options, text=True, stderr=subprocess.PIPE) as process:
        try:
            port = int(re.search(r"listening on \S+:(\d+)", read_until(process, "listening on")).group(1))
            process.stderr.close()
            with Raw(socket.create_connection(("127.0.0.1", port), PATIENCE)).upgrade("/x") as client:
                assert client.text() == "one 1"
                assert_served_by(client, "one 1")
            assert run("health", env={"control": tmp_path / "control.sock"}).returncode == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


# ---- workers ----


def one_on_each_worker(server, workers):
    """One client on each worker; the route sends app.worker first."""
    clients = {}
    for _ in range(1000):
        client = server.raw("/x")
        number = int(client.text())
        if number in clients:
            client.close()
        else:
            clients[number] = client
        if len(clients) == workers:
            return clients
    raise AssertionError(f"only the workers {sorted(clients)} get connections")


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_and_their_numbers(serve, workers):
    server = serve("""app.websocket("/x", function(ws)
        ws:send(math.type(app.worker) .. " " .. app.worker .. " " .. app.workers .. " " .. tostring(ws.id))
    end)""", workers=workers)
    seen, ids = set(), set()
    clients = [server.raw("/x") for _ in range(60)]
    for client in clients:
        kind, worker, count, number = client.text().split()
        assert kind == "integer" and int(count) == workers
        seen.add(int(worker))
        ids.add(number)
    assert seen <= set(range(1, workers + 1)) and len(ids) == 60
    assert len(seen) == 1 if workers == 1 else len(seen) > 1
    assert f"{workers} worker" in server.ask("health") and "60 connections" in server.ask("health")


def test_workers_have_states_of_their_own(serve):
    server = serve("""
        local n = 0
        app.websocket("/x", function(ws)
          ws:send("" .. app.worker)
          ws:on_text(function(ws) n = n + 1 ws:send("" .. n) end)
        end)""", workers=3)
    clients = one_on_each_worker(server, 3)
    for worker, client in clients.items():
        for i in range(1, worker + 3):
            client.send_frame(TEXT, "count")
            assert client.text() == f"{i}"


# ---- keep-alive ----

KEEP = """app.websocket("/x", function(ws)
  ws:on_text(function(ws, text) ws:send(text) end)
  ws:on_close(function(ws, code, reason) log.info("closed", code, #reason) end)
end)"""


def test_a_silent_peer_is_pinged_and_cut(serve):
    server = serve(KEEP, ping_interval="0.3")
    with server.raw("/x") as client:
        assert client.frame() == (PING, b"")
        client.expect_end()
    server.wait_log("closed 1006 0")
    assert server.metrics()["tidewire_ping_timeouts_total"] == 1


@pytest.mark.parametrize("answer", [(PONG, b""), (PONG, b"unsolicited"), (TEXT, b"")])
def test_a_peer_that_sends_anything_lives(serve, answer):
    server = serve(KEEP, ping_interval="0.3")
    with server.raw("/x") as client:
        for _ in range(5):
            assert client.frame() == (PING, b"")
            client.send_frame(*answer)
            if answer[0] == TEXT:
                assert client.frame() == answer
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    assert server.metrics()["tidewire_ping_timeouts_total"] == 0


def test_pings_come_between_the_frames_of_a_message(serve):
    server = serve(KEEP, ping_interval="0.3")
    with server.raw("/x") as client:
        client.send_frame(TEXT, "be", fin=False)
        assert client.frame() == (PING, b"")
        client.send_frame(PONG)
        client.send_frame(CONT, "tween")
        assert client.text() == "between"


def test_an_idle_peer_gets_1001(serve):
    server = serve(KEEP, ping_interval=0, idle_timeout="0.3")
    with server.raw("/x") as client:
        assert client.frame() == (CLOSE, close_payload(1001, b"idle"))
        client.send_frame(CLOSE, close_payload(1001))
        client.expect_end()
    server.wait_log("closed 1001")
    assert server.metrics()["tidewire_ping_timeouts_total"] == 0


def test_an_idle_peer_that_does_not_answer_the_close_is_cut(serve):
    server = serve(KEEP, ping_interval=0, idle_timeout="0.3", close_timeout="0.2")
    with server.raw("/x") as client:
        client.expect_close(1001)
    server.wait_log("closed 1006")


def test_keep_alive_is_per_connection(serve):
    server = serve(KEEP, ping_interval="0.3", workers=2)
    silent = [server.raw("/x") for _ in range(5)]
    with server.raw("/x") as lively:
        while server.metrics()["tidewire_ping_timeouts_total"] < 5:
            assert lively.frame() == (PING, b"")
            lively.send_frame(PONG)
        lively.send_frame(TEXT, "alive")
        while (got := lively.frame())[0] == PING:
            pass
        assert got == (TEXT, b"alive")
    for client in silent:
        client.close()


# ---- slow readers ----

SLOW = """
local blob = ("x"):rep(32 * 1024)
app.websocket("/flood", function(ws)
  ws:on_text(function(ws, text)
    local n, ok, why = 0, true, nil
    while ok and (text ~= "some" or n < 20) do
      ok, why = ws:send(blob)
      if ok then n = n + 1 end
    end
    log.info("sent", text, n, why, text == "all" and ws:send("more"))
  end)
  ws:on_close(function(ws, code) log.info("flood closed", code) end)
end)
app.websocket("/echo", function(ws) ws:on_text(function(ws, text) ws:send(text) end) end)
"""


def narrow(server, path):
    """A client with little room for what it does not read."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    return server.wrap(sock).upgrade(path)


def assert_echoes(client):
    client.send_frame(TEXT, "hello")
    assert client.text() == "hello"


def test_a_slow_reader_is_told_1013_and_gets_all_that_was_accepted(serve):
    server = serve(SLOW, send_limit="256k", close_timeout=3600)
    with narrow(server, "/flood") as client, server.raw("/echo") as other:
        client.send_frame(TEXT, "all")
        sent = int(server.wait_log(r"sent all (\d+) queue full").group(1))
        assert_echoes(other)
        metrics = server.metrics()
        assert metrics["tidewire_slow_consumers_closed_total"] == 1
        assert 0 < metrics["tidewire_send_queue_bytes"] <= (256 + 40) * 1024
        for _ in range(sent):
            assert client.frame() == (TEXT, b"x" * 32 * 1024)
        assert client.frame() == (CLOSE, close_payload(1013, b"send queue full"))
        client.send_frame(CLOSE, close_payload(1013))
        client.expect_end()
        server.wait_log("flood closed 1013")
        assert_echoes(other)
    for gauge in GAUGES:
        server.wait_metric(gauge, 0)


def test_slow_readers_that_never_read_are_cut(serve):
    server = serve(SLOW, send_limit="256k", close_timeout="0.2")
    clients = [narrow(server, "/flood") for _ in range(20)]
    with server.raw("/echo") as other:
        for client in clients:
            client.send_frame(TEXT, "all")
            assert_echoes(other)
            assert server.metrics()["tidewire_send_queue_bytes"] <= 20 * (256 + 40) * 1024
        server.wait_metric("tidewire_websockets", 1)
        server.wait_metric("tidewire_connections", 1)
        server.wait_metric("tidewire_send_queue_bytes", 0)
        assert server.metrics()["tidewire_slow_consumers_closed_total"] == 20
        assert_echoes(other)
    for client in clients:
        client.close()


def test_an_empty_queue_takes_one_message_of_any_size(serve):
    server = serve("""app.websocket("/x", function(ws)
        ws:on_text(function(ws) ws:send(("x"):rep(1000000)) end)
    end)""", send_limit=1)
    with server.raw("/x") as client:
        for _ in range(3):
            client.send_frame(TEXT, "go")
            assert client.frame() == (TEXT, b"x" * 1000000)


def test_a_fast_reader_is_never_over_the_limit(serve):
    server = serve(SLOW, send_limit="1m")
    with server.raw("/flood") as client:
        for _ in range(50):
            client.send_frame(TEXT, "some")
            for _ in range(20):
                assert client.frame() == (TEXT, b"x" * 32 * 1024)
    assert server.metrics()["tidewire_slow_consumers_closed_total"] == 0


def test_pings_of_a_peer_that_never_reads_do_not_pile_up(serve):
    server = serve(SLOW, ping_interval=0)
    flood = frame(PING, b"p" * 125) * 4000
    total = 256 * 1024 * 1024
    with narrow(server, "/flood") as client, server.raw("/echo") as other:
        client.sock.setblocking(False)
        sent = 0
        while sent < total:
            if select.select([], [client.sock], [], 0.2)[1]:
                sent += client.sock.send(flood[sent % len(flood):])
            elif server.metrics()["tidewire_send_queue_bytes"] > 256 * 1024:
                break  # it has stopped reading on purpose
        assert sent < total, "the server read on and on"
        assert server.metrics()["tidewire_send_queue_bytes"] < 1024 * 1024
        assert_echoes(other)
        client.sock.settimeout(PATIENCE)
        for _ in range(sent // 131):  # and it goes on as soon as the peer reads
            assert client.frame() == (PONG, b"p" * 125)
        server.wait_metric("tidewire_send_queue_bytes", 0)


# ---- gauges ----


def test_frame_contexts_are_lent_only_within_a_frame(serve):
    server = serve(KEEP)
    clients = [server.raw("/x") for _ in range(300)]
    server.wait_metric("tidewire_websockets", 300)
    assert server.metrics()["tidewire_frame_contexts"] == 0
    whole = frame(TEXT, "x" * 1000)
    server.send_apart(clients[0], whole[:1], whole[1:7])
    server.wait_metric("tidewire_frame_contexts", 1)
    server.send_apart(clients[1], whole[:500])
    server.wait_metric("tidewire_frame_contexts", 2)
    clients[0].send(whole[7:])
    assert clients[0].text() == "x" * 1000
    assert server.metrics()["tidewire_frame_contexts"] == 1
    clients[1].close()
    server.wait_metric("tidewire_websockets", 299)
    assert server.metrics()["tidewire_frame_contexts"] == 0
    for client in clients:
        client.close()


@pytest.mark.parametrize("ending", ["close", "reset", "goodbye"])
@pytest.mark.parametrize("workers", [1, 2])
def test_all_gauges_return_to_zero(serve, ending, workers):
    server = serve(SLOW, send_limit="4m", close_timeout="0.2", workers=workers)
    clients = [server.raw("/echo") for _ in range(5)]
    clients.append(server.raw())
    half_message, half_frame, slow = server.raw("/echo"), server.raw("/echo"), narrow(server, "/flood")
    server.send_apart(half_message, frame(BINARY_OP, b"x" * 5000, fin=False))
    server.send_apart(half_frame, frame(TEXT, "x" * 1000)[:500])
    slow.send_frame(TEXT, "some")
    server.wait_log("sent some")
    server.wait_metric("tidewire_frame_contexts", 1)
    metrics = server.metrics()
    assert metrics["tidewire_websockets"] == 8
    assert 5000 <= metrics["tidewire_reassembly_bytes"] < 100000
    for client in (*clients, half_message, half_frame, slow):
        if ending == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if ending == "goodbye" and client not in (half_frame, clients[-1]):
            client.send_frame(CLOSE, close_payload(1000))
        client.close()
    for gauge in GAUGES:
        server.wait_metric(gauge, 0)
    assert server.ask("health").endswith(" 0 connections\n")
