# SPDX-License-Identifier: MIT
"""Where the log goes: a file and its rotation, readers that do not read, colours, and lines that come again and again."""
import fcntl
import json
import os
import pty
import re
import signal
import socket
import subprocess
import termios

import pytest

from conftest import BINARY, PATIENCE, Raw, environment, run

HELLO = 'app.get("/", function() return "hello" end)\n'
ASK = "GET / HTTP/1.1\nHost: x\n\n"


def wait_file(server, path, pattern):
    """Waits until the file matches. Each look is a round trip through the server, so it is no busy loop."""
    def there(_):
        return path.exists() and re.search(pattern, path.read_text(encoding="utf-8"))
    server.wait_metric("tidewire_connections", there)
    return path.read_text(encoding="utf-8")


# ---- files ----


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_file_gets_the_log_and_standard_error_what_must_be_seen(serve, tmp_path, form):
    path = tmp_path / "log"
    server = serve('log.error("an error while loading") log.info("loading")\n'
                   'app.get("/", function() log.error("later") return "x" end)', log_file=path, log_format=form)
    server.metrics()  # the main thread is through with starting
    with server.raw() as client:
        assert client.request(ASK).status == 200
    text = wait_file(server, path, "later")
    assert server.stop() == 0
    text = path.read_text(encoding="utf-8")
    for part in ("an error while loading", "loading", "listening on", "later", "SIGTERM: stopping"):
        assert part in text
    assert [part in server.log for part in ("an error while loading", "listening on", "later", "stopping")] \
        == [True, True, False, False]
    assert path.stat().st_mode & 0o137 == 0
    if form == "json":
        assert [json.loads(line)["level"] for line in text.splitlines() if "later" in line] == ["error"]


def test_log_file_is_appended_to(serve, tmp_path):
    path = tmp_path / "log"
    path.write_text("from before\n", encoding="utf-8")
    serve(HELLO, log_file=path)
    assert path.read_text(encoding="utf-8").startswith("from before\n")


@pytest.mark.parametrize("key", ["log_file", "access_log"])
@pytest.mark.parametrize("name, why", [("no/such/folder", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_opened_is_an_error_at_the_start(tmp_path, key, name, why):
    script = tmp_path / "main.lua"
    script.write_text(HELLO, encoding="utf-8")
    done = run(script, "--listen", "127.0.0.1:0", env={key: tmp_path / name})
    assert done.returncode == 1
    assert re.fullmatch(rf"tidewire: {key}: cannot open .*: {why}\n", done.stderr)


def test_a_failed_start_is_told_on_standard_error_too(tmp_path):
    script = tmp_path / "main.lua"
    script.write_text("error('broken')", encoding="utf-8")
    done = run(script, "--listen", "127.0.0.1:0", env={"log_file": tmp_path / "log"})
    assert done.returncode == 1 and "broken" in done.stderr
    assert "broken" in (tmp_path / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["check", "routes"])
def test_other_commands_write_to_standard_error(tmp_path, command):
    script = tmp_path / "main.lua"
    script.write_text('for i = 1, 100 do log.info("again") end\n' + HELLO, encoding="utf-8")
    done = run(command, script, env={"log_file": tmp_path / "log"})
    assert done.returncode == 0 and done.stderr.count("again") == 100
    assert not (tmp_path / "log").exists()


# ---- rotation ----


COUNTING = """
local n = 0
app.websocket("count", function(ws)
  ws:on_text(function(ws, text)
    for _ = 1, tonumber(text) do n = n + 1 log.info("line", n) end
    ws:send("x")
  end)
end)
app.get("/", function() return "hello" end)
"""


def test_sigusr1_opens_the_files_anew_and_no_line_is_lost(serve, tmp_path):
    log, access = tmp_path / "log", tmp_path / "access"
    server = serve(COUNTING, log_file=log, access_log=access)
    with server.raw("/count") as client:
        for i in range(5):
            log.rename(tmp_path / f"log.{i}")
            access.rename(tmp_path / f"access.{i}")
            client.send_frame(1, "500")
            server.send_signal(signal.SIGUSR1)
            client.send_frame(1, "500")
            assert [client.text(), client.text()] == ["x", "x"]
            with server.raw() as other:
                other.request(ASK)
            wait_file(server, log, "open anew")
            assert access.exists()
    assert server.stop() == 0
    old = [tmp_path / f"log.{i}" for i in range(5)]
    text = "".join(path.read_text(encoding="utf-8") for path in [*old, log])
    assert [int(n) for n in re.findall(r"\] line (\d+)\n", text)] == list(range(1, 5001))
    old = [tmp_path / f"access.{i}" for i in range(5)]
    text = "".join(path.read_text(encoding="utf-8") for path in [*old, access])
    assert text.count('"GET / ') == 5 and text.count(" websocket ") == 1
    assert log.read_text(encoding="utf-8").startswith("2")


def test_a_file_that_cannot_be_opened_anew_is_kept(serve, tmp_path):
    log = tmp_path / "log"
    server = serve(HELLO + 'app.get("/say", function() log.info("said") return "x" end)', log_file=log)
    log.rename(tmp_path / "old")
    log.mkdir()
    server.send_signal(signal.SIGUSR1)
    wait_file(server, tmp_path / "old", "cannot open .*: Is a directory; going on with the file that is open")
    with server.raw() as client:
        client.request("GET /say HTTP/1.1\nHost: x\n\n")
    wait_file(server, tmp_path / "old", "said")


def test_sigusr1_does_nothing_without_a_file(serve):
    server = serve(HELLO)
    server.send_signal(signal.SIGUSR1)
    with server.raw() as client:
        assert client.request(ASK).body == "hello"
    server.stop()
    assert "anew" not in server.log


# ---- nobody reads ----


LOST = rb"warn  (\d+) log lines were lost"


class Watched:
    """A server whose standard error the test reads, or not."""

    def __init__(self, folder, script, options, stdout=subprocess.DEVNULL):
        source = folder / "main.lua"
        source.write_text(script, encoding="utf-8")
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 65536)
        options = {"listen": "127.0.0.1:0", "control": folder / "control", "log_buffer": "64k", **options}
        self.process = subprocess.Popen([BINARY, source], env=environment(**options), stdin=subprocess.DEVNULL,
                                        stdout=stdout, stderr=writer)
        os.close(writer)
        self.log = os.fdopen(reader, "rb")
        line = self.log.readline()
        while not (found := re.search(rb"listening on 127.0.0.1:(\d+)", line)):
            assert line, "the server has ended"
            line = self.log.readline()
        self.port = int(found.group(1))

    def connect(self):
        return Raw(socket.create_connection(("127.0.0.1", self.port), PATIENCE))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0

    def discard(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture(name="watched")
def start_watched(tmp_path):
    started = []

    def start(script, stdout=subprocess.DEVNULL, **options):
        started.append(Watched(tmp_path, script, options, stdout))
        return started[-1]
    yield start
    for server in started:
        server.discard()


NOISY = """
local n = 0
app.get("/", function()
  for _ = 1, 100 do n = n + 1 log.info("line", n, ("x"):rep(100)) end
  return tostring(n)
end)
"""


def test_a_pipe_that_nobody_reads_holds_up_nobody_and_the_loss_is_told(watched):
    server = watched(NOISY)
    with server.connect() as client:
        for i in range(1, 101):  # over 1 MB of log, for a pipe and a buffer of 64 KiB each
            assert client.request(ASK).body == str(100 * i)
        lines = [server.log.readline()]
        while not re.search(LOST, lines[-1]):
            lines.append(server.log.readline())
        assert client.request(ASK).body == "10100"
    while b"line 10100" not in lines[-1]:
        lines.append(server.log.readline())
    server.stop()
    lines += server.log.readlines()
    assert b"SIGTERM: stopping" in lines[-1]
    numbers = [int(m.group(1)) for line in lines if (m := re.search(rb"\] line (\d+) ", line))]
    assert numbers == sorted(set(numbers))
    lost = [int(m.group(1)) for line in lines if (m := re.search(LOST, line))]
    assert len(numbers) + sum(lost) == 10100


def test_a_server_leaves_although_nobody_reads(watched):
    server = watched(NOISY)
    with server.connect() as client:
        for _ in range(50):
            assert client.request(ASK).status == 200
    server.stop()


def test_a_reader_that_has_gone_is_no_end(watched):
    server = watched(NOISY)
    server.log.close()
    with server.connect() as client:
        for _ in range(50):
            assert client.request(ASK).status == 200
    server.stop()


def test_an_access_log_that_nobody_reads_holds_up_neither_answers_nor_the_log(watched):
    reader, writer = os.pipe()
    script = 'app.get("/", function(req) log.info("told", req.id) return "x" end)'
    server = watched(script, stdout=writer, access_log="-")
    os.close(writer)
    ask = f"GET / HTTP/1.1\nHost: x\nUser-Agent: {'x' * 400}\n\n"
    with os.fdopen(reader, "rb"), server.connect() as client:
        for _ in range(500):
            assert client.request(ask).status == 200
            assert any(b"told" in server.log.readline() for _ in range(2))  # the loss may be told once between
        server.stop()


def test_a_process_that_aborts_has_written_its_log(serve, tmp_path):
    log = tmp_path / "log"
    server = serve("""
        app.websocket("stuck", function()
          log.info("the last line of the script")
          string.find(("a"):rep(100000), (".-"):rep(30) .. "b")
        end)""", log_file=log, handler_budget=0.1, abort_stuck="true")
    server.expected_exit = -signal.SIGABRT
    with server.raw() as client:
        client.handshake("/stuck")
        server.process.wait(PATIENCE)
    text = log.read_text(encoding="utf-8")
    assert "the last line of the script" in text and text.endswith("abort_stuck is set: aborting\n")


def test_a_second_signal_leaves_with_the_log_written(serve, tmp_path):
    log = tmp_path / "log"
    server = serve('app.get("/", function() app.sleep(100) end)', log_file=log, drain_timeout=60, request_timeout=0)
    with server.raw() as client:
        client.send(ASK.replace("\n", "\r\n"))
        server.wait_metric("tidewire_tasks", 1)
        server.send_signal(signal.SIGTERM)
        while "SIGTERM: stopping" not in log.read_text(encoding="utf-8"):
            server.ask("health")
        server.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    assert log.read_text(encoding="utf-8").endswith("SIGTERM again: leaving at once\n")


# ---- colours ----


def first_line_on_a_terminal(tmp_path, env, *args):
    script = tmp_path / "main.lua"
    script.write_text('log.warn("careful")', encoding="utf-8")
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    with os.fdopen(master, "rb", buffering=0) as terminal:
        with os.fdopen(slave, "wb") as stderr:
            done = subprocess.run([BINARY, "check", script, *args], env={**environment(), **env}, stderr=stderr,
                                  stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False, timeout=PATIENCE)
        assert done.returncode == 0
        return terminal.read(4096)


PLAIN = {"TERM": "xterm", "NO_COLOR": ""}


@pytest.mark.parametrize("env, args, coloured", [
    (PLAIN, [], True),
    ({**PLAIN, "NO_COLOR": "1"}, [], False),
    ({**PLAIN, "TERM": "dumb"}, [], False),
    (PLAIN, ["--log-format=json"], False),
], ids=["terminal", "NO_COLOR", "dumb", "json"])
def test_colours_on_a_terminal(tmp_path, env, args, coloured):
    line = first_line_on_a_terminal(tmp_path, env, *args)
    assert b"careful" in line and (b"\x1b[33mwarn \x1b[0m" in line) == coloured and (b"\x1b" in line) == coloured


def test_no_colours_elsewhere(tmp_path):
    script = tmp_path / "main.lua"
    script.write_text('log.warn("careful")', encoding="utf-8")
    done = run("check", script, env={})
    assert "careful" in done.stderr and "\x1b" not in done.stderr


# ---- repetition ----


FAILING = """
app.websocket("fail", function(ws) ws:on_text(function() log.warn("the same") end) end)
app.websocket("other", function(ws) ws:on_text(function() log.warn("the same") end) end)
app.get("/different", function() for i = 1, 200 do log.info("number", i) end return "x" end)
app.get("/boom", function() error("boom") end)
app.get("/", function() return "x" end)
"""


def test_what_comes_again_and_again_is_counted(serve):
    server = serve(FAILING)
    with server.raw("/fail") as loud, server.raw("/other") as quiet:
        for _ in range(1000):
            loud.send_frame(1, "x")
        server.wait_log(r"\[/fail\] the same \.\.\. \d+ more like it in the last \d+\.\d s")
        quiet.send_frame(1, "x")
        server.wait_log(r", /other\] the same")
    server.stop()
    lines = [line for line in server.log.splitlines() if "/fail] the same" in line]
    told = [line for line in lines if "more like it" not in line]
    more = [int(n) for n in re.findall(r"\[/fail\] the same \.\.\. (\d+) more", server.log)]
    assert len(told) + sum(more) == 1000 and len(told) < 1000


def test_what_is_hidden_is_told_at_the_end(serve):
    server = serve(FAILING, log_repeat=1)
    with server.raw() as client:
        for _ in range(3):
            client.request("GET /boom HTTP/1.1\nHost: x\n\n")
    server.stop()
    told = len(re.findall(r"\d, /boom\] .*boom$", server.log, re.M))
    more = sum(int(n) for n in re.findall(r"\[/boom\] .*boom \.\.\. (\d+) more like it", server.log))
    assert told + more == 3


@pytest.mark.parametrize("limit, expected", [(0, 1000), (1000, 1000)])
def test_repetition_within_the_limit_is_all_told(serve, limit, expected):
    server = serve(FAILING, log_repeat=limit)
    with server.raw("/fail") as client:
        for _ in range(1000):
            client.send_frame(1, "x")
        client.send_frame(9, "")
        assert client.frame() == (10, b"")
    server.stop()
    assert server.log.count("/fail] the same") == expected and "more like it" not in server.log


def test_different_lines_are_no_repetition(serve):
    server = serve(FAILING, log_repeat=1)
    with server.raw() as client:
        client.request("GET /different HTTP/1.1\nHost: x\n\n")
    server.stop()
    assert [int(n) for n in re.findall(r"number (\d+)$", server.log, re.M)] == list(range(1, 201))
