# SPDX-License-Identifier: MIT
"""`tidewire reload`: it waits for the outcome, prints it, and its exit code says whether the new code serves."""
import re
import signal
import socket
import subprocess

import pytest

from conftest import BINARY, PATIENCE, environment, not_under_tsan, run

WAITING = 24  # clients that may wait for an outcome at the same time


def version(name, before=""):
    return before + f'\napp.websocket("/x", function(ws) ws:send("{name} " .. app.generation) end)\n'


def gated(server, name):
    """A script that loads only once the file `gate` is there, and says when it begins."""
    return version(name, f"""
        log.info("loads {name}")
        local file
        repeat file = io.open("{server.folder}/gate") until file
        file:close()
    """)


def put(server, text):
    server.script.write_text(text, encoding="utf-8")


def open_gate(server):
    (server.folder / "gate").touch()


def greeting(server):
    with server.raw("/x") as client:
        return client.text()


def reload(server):
    return run("reload", "--control", server.control_path)


class Asking:
    """A `tidewire reload` that runs; the server has its request."""

    def __init__(self, server):
        start = server.mark()
        self.process = subprocess.Popen([BINARY, "reload"], env=environment(control=server.control_path), text=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        server.wait_log(r"tidewire reload: loading \S*main\.lua", start)
        server.ask("health")  # the line comes just before the request is passed on

    def outcome(self):
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def ask_raw(server):
    """A client of the control socket that has asked for a reload and waits."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(str(server.control_path))
    client.sendall(b"reload\n")
    return client, client.makefile("r", encoding="utf-8")


@pytest.mark.parametrize("workers", [1, 3])
def test_reload_prints_the_new_generation_once_it_serves(serve, workers):
    server = serve(version("one"), workers=workers)
    for number in (2, 3):
        put(server, version(f"v{number}"))
        done = reload(server)
        says = f"ok generation {number} serves new connections; 0 connections moved to it\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, says, "")
        assert greeting(server) == f"v{number} {number}"


def test_reload_waits_until_live_connections_have_moved(serve):
    server = serve(version("one"))
    with server.raw("/x") as client:
        assert client.text() == "one 1"
        put(server, version("two"))
        assert reload(server).stdout == "ok generation 2 serves new connections; 1 connections moved to it\n"
        assert client.text() == "two 2"
        put(server, version("bad", "local x = nil\n").replace("ws:send(", "error("))
        done = reload(server)
        assert (done.returncode, done.stdout) == (1, "") and "too many connections failed to move" in done.stderr
        assert client.text() == "two 4"


FAULTS = {
    "syntax": ("x =\n= 1", [r"main\.lua:2: unexpected symbol near '='"]),
    "error": ("\n\nerror('on purpose')", [r"main\.lua:3: on purpose", "stack traceback:", r"main\.lua:3: in main chunk"]),
    "in a function": ("local function f() error('deep') end\nf()",
                      [r"main\.lua:1: deep", r"main\.lua:1: in .*'f'", r"main\.lua:2: in main chunk"]),
    "endless": ("\nwhile true do end", [r"main\.lua:2: cut: it ran longer than 0\.3 s \(load_budget\)"]),
    "memory": ("local t = {} for i = 1, 1e9 do t[i] = tostring(i) end", ["not enough memory"]),
    "module": ("require('nowhere')", [r"main\.lua:1: module 'nowhere' not found", r"nowhere\.lua"]),
    "workers": ("if app.worker == 2 then app.websocket('/z', print) end", ["worker 2 registers other routes", "/z"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_refused_reload_says_why_and_exits_with_1(serve, fault):
    text, patterns = FAULTS[fault]
    server = serve(version("good"), workers=2, load_budget="0.3" if fault == "endless" else "60", vm_memory="8m")
    put(server, text)
    done = reload(server)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error reload refused, generation 1 goes on: ")
    for pattern in patterns:
        assert re.search(pattern, done.stderr), done.stderr
    assert greeting(server) == "good 1"
    put(server, version("mended"))
    assert reload(server).stdout.startswith("ok generation 2 serves new connections; ")
    assert greeting(server) == "mended 2"


def test_a_script_that_is_gone_is_refused(serve):
    server = serve(version("good"))
    server.script.unlink()
    done = reload(server)
    assert done.returncode == 1
    assert re.search(r"generation 1 goes on: cannot read \S*main\.lua: No such file", done.stderr)


def test_reload_without_a_server(tmp_path):
    done = run("reload", "--control", tmp_path / "nobody.sock")
    assert done.returncode == 1 and done.stdout == ""
    assert f"no server answers on the control socket {tmp_path}/nobody.sock" in done.stderr


@pytest.mark.parametrize("args, message", [
    (["reload", "now"], "unexpected argument now"),
    (["reload", "--contrl", "x"], "did you mean --control"),
])
def test_a_wrong_command_line_exits_with_2(args, message):
    done = run(*args)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr


def test_reload_finds_the_server_by_its_pid_file(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "not here"))
    pid_file = tmp_path / "pid"
    serve(version("one"), control=f"{pid_file}.sock", pid_file=pid_file)
    assert run("reload", "--pid-file", pid_file).stdout.startswith("ok generation 2 serves new connections; ")


def test_requests_that_come_during_a_load_belong_to_the_next_and_share_its_outcome(serve):
    server = serve(version("one"))
    put(server, gated(server, "two"))
    first = Asking(server)
    server.wait_log("loads two")
    put(server, version("three"))
    later = [Asking(server) for _ in range(3)]
    assert all(asking.process.poll() is None for asking in (first, *later))
    open_gate(server)
    code, out, err = first.outcome()
    assert (code, out.split(";")[0], err) == (0, "ok generation 2 serves new connections", "")
    for asking in later:
        assert asking.outcome() == (0, "ok generation 3 serves new connections; 0 connections moved to it\n", "")
    assert greeting(server) == "three 3"
    assert reload(server).stdout.startswith("ok generation 4 serves new connections; ")


def test_waiters_of_a_refused_load_all_get_its_error_and_no_other(serve):
    server = serve(version("one"))
    put(server, gated(server, "two") + "\nerror('after the gate')")
    first = Asking(server)
    server.wait_log("loads two")
    put(server, "error('second')")
    later = [Asking(server) for _ in range(2)]
    open_gate(server)
    code, out, err = first.outcome()
    assert (code, out) == (1, "") and "after the gate" in err and "second" not in err
    for asking in later:
        code, out, err = asking.outcome()
        assert (code, out) == (1, "") and "main.lua:1: second" in err and "after the gate" not in err
    assert server.metrics()['tidewire_reloads_total{outcome="refused"}'] == 2


def test_signals_and_requests_coalesce(serve):
    server = serve(version("one"))
    put(server, gated(server, "two"))
    server.send_signal(signal.SIGHUP)
    server.wait_log("loads two")
    put(server, version("three"))
    for _ in range(3):
        start = server.mark()
        server.send_signal(signal.SIGHUP)
        server.wait_log("SIGHUP: loading", start)
    asking = Asking(server)
    open_gate(server)
    assert asking.outcome() == (0, "ok generation 3 serves new connections; 0 connections moved to it\n", "")
    assert reload(server).stdout.startswith("ok generation 4 serves new connections; ")


def test_a_client_that_leaves_disturbs_nobody(serve):
    server = serve(version("one"))
    put(server, gated(server, "two"))
    stays = Asking(server)
    server.wait_log("loads two")
    for _ in range(3 * WAITING):
        client, answer = ask_raw(server)
        while (line := answer.readline()).startswith("error too many wait"):  # it has not noticed yet that others left
            client, answer = ask_raw(server)
        assert re.fullmatch(r"wait \d+\n", line)
        answer.close()
        client.close()
        assert server.ask("health").startswith("ok generation 1,")
    open_gate(server)
    assert stays.outcome()[1].startswith("ok generation 2 serves new connections; ")
    server.wait_log("generation 3 serves")
    assert reload(server).stdout.startswith("ok generation 4 serves new connections; ")


def test_a_client_that_has_said_all_still_gets_its_answer(serve):  # as socat does after its input's end
    server = serve(version("one"))
    put(server, gated(server, "two"))
    client, answer = ask_raw(server)
    with client, answer:
        assert answer.readline().startswith("wait ")
        client.sendall(b"and more that nobody asked for")
        client.shutdown(socket.SHUT_WR)
        assert server.ask("health").startswith("ok ")
        open_gate(server)
        assert answer.read().startswith("ok generation 2 serves new connections; ")


def test_waiting_clients_leave_room_for_health(serve):
    server = serve(version("one"))
    put(server, gated(server, "two"))
    first = ask_raw(server)
    server.wait_log("loads two")
    waiting = [first] + [ask_raw(server) for _ in range(WAITING - 1)]
    for _, answer in waiting:
        assert answer.readline().startswith("wait ")
    refused = reload(server)
    assert refused.returncode == 1 and refused.stderr == "error too many wait already\n"
    assert server.ask("health").startswith("ok ")
    open_gate(server)
    for number, (client, answer) in enumerate(waiting):
        assert answer.read().startswith(f"ok generation {3 if number else 2} serves new connections; ")
        answer.close()
        client.close()
    assert reload(server).returncode == 0


def test_the_server_says_how_long_the_outcome_may_take(serve):
    server = serve(version("one"), load_budget=100, workers=2)
    assert server.ask("reload") == "wait 405\nok generation 2 serves new connections; 0 connections moved to it\n"


@not_under_tsan  # the server leaves without that thread, which is then reported
def test_a_load_that_cannot_be_cut_does_not_hold_the_client_forever(serve):
    server = serve(version("one"), load_budget="0.05")
    put(server, "('a'):rep(40):find(('.-'):rep(40) .. 'b')")
    done = reload(server)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error there is no outcome yet\n")
    assert greeting(server) == "one 1"


def test_stopping_answers_those_who_wait(serve):
    server = serve(version("one"), load_budget=3600)
    put(server, "log.info('loads') while true do end")
    asking = Asking(server)
    server.wait_log("loads")
    server.send_signal(signal.SIGTERM)
    assert asking.outcome() == (1, "", "error stopping\n")
    assert server.stop(None) == 0


def test_reload_while_stopping_is_refused(serve):
    server = serve(version("one"), close_timeout=3600, drain_timeout=3600)
    with server.raw("/x"):
        server.send_signal(signal.SIGTERM)
        server.wait_log("stopping")
        done = reload(server)
        assert (done.returncode, done.stderr) == (1, "error stopping\n")
    assert server.stop(None) == 0
