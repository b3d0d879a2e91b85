# SPDX-License-Identifier: MIT
"""Under a service manager: what is told over NOTIFY_SOCKET, the sockets that are passed, the file limit. The manager is
this test."""
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT, TEXT, Raw, run

SCRIPT = """
app.get("env", function()
  return (os.getenv("NOTIFY_SOCKET") or os.getenv("WATCHDOG_USEC") or os.getenv("WATCHDOG_PID") or
          os.getenv("LISTEN_FDS") or "gone")
end)
app.websocket("echo", function(ws) ws:on_text(function(ws, text) ws:send(text) end) end)
"""


class Manager:
    """What systemd hears."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind("\0" + address[1:] if address[0] == "@" else address)

    def next(self):
        """The next message but WATCHDOG=1, as a dictionary."""
        while (heard := self.any()) == {"WATCHDOG": "1"}:
            pass
        return heard

    def any(self):
        lines = self.socket.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture(name="manager")
def notify_socket(request, monkeypatch, tmp_path):
    abstract = getattr(request, "param", "path") == "abstract"
    address = f"@tidewire-{os.urandom(8).hex()}" if abstract else str(tmp_path / "notify")
    manager = Manager(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    yield manager
    manager.socket.close()


@pytest.mark.parametrize("manager", ["path", "abstract"], indirect=True)
def test_ready_when_it_listens_and_stopping_when_it_stops(serve, manager):
    server = serve(SCRIPT, workers=2)
    assert manager.next() == {"READY": "1", "STATUS": "generation 1 serves"}
    with server.raw() as client:
        assert client.request("GET /env HTTP/1.1\nHost: x\n\n").body == "gone"
    assert server.stop() == 0
    assert manager.next() == {"STOPPING": "1", "STATUS": "stopping"}


def test_a_failed_start_is_never_ready(manager, tmp_path):
    script = tmp_path / "main.lua"
    script.write_text("error('on purpose')", encoding="utf-8")
    assert run(script, env={"listen": "127.0.0.1:0", "control": tmp_path / "control"}).returncode == 1
    manager.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.any()


def test_a_reload_is_told_with_its_time_and_its_outcome(serve, manager):
    server = serve(SCRIPT)
    assert "READY" in manager.next()
    for text, status in ((SCRIPT, r"generation 2 serves"), ("error('on purpose')", r".*2 serves; a reload was refused: "
                         r".*main\.lua:1: on purpose"), (SCRIPT, r"generation 3 serves")):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        server.reload(text)
        heard = manager.next()
        assert heard["RELOADING"] == "1"
        assert before <= int(heard["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        heard = manager.next()
        assert heard["READY"] == "1" and re.fullmatch(status, heard["STATUS"]), heard


def test_reloads_that_coalesce_end_once(serve, manager):
    """READY=1 comes when nothing is being loaded any more."""
    server = serve(SCRIPT)
    assert "READY" in manager.next()
    Path(server.script).write_text(SCRIPT + "local t = os.clock() while os.clock() < t + 0.2 do end", encoding="utf-8")
    for _ in range(3):
        server.send_signal(signal.SIGHUP)
        assert "RELOADING" in manager.next()
    assert "READY" in manager.next()
    assert server.stop() == 0
    assert "STOPPING" in manager.next()


def test_signs_of_life_while_all_workers_are_well(serve, manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    costly = "local _ = ({ a = ('a'):rep(66):find(('.-'):rep(5) .. 'b') })"
    server = serve(SCRIPT + f"app.websocket('x', function(ws) ws:on_text(function() {costly} end) end)",
                   handler_budget="0.05")
    assert "READY" in manager.any()
    for _ in range(3):
        assert manager.any() == {"WATCHDOG": "1"}
    Path(server.script).write_text(SCRIPT + "local t = os.clock() while os.clock() < t + 0.02 do end", encoding="utf-8")
    with server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        server.wait_log("stuck: ")
        server.send_signal(signal.SIGHUP)
        while "RELOADING" not in manager.any():
            pass
        assert "READY" in manager.any()  # and no sign of life between the two
        client.expect_close(1011)
    while manager.any() != {"WATCHDOG": "1"}:
        pass


def test_the_watchdog_of_another_process_is_not_ours(serve, manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    server = serve(SCRIPT)
    assert "READY" in manager.any()
    assert server.reload(SCRIPT)
    assert "RELOADING" in manager.any() and "READY" in manager.any()


@pytest.mark.parametrize("address", ["relative", "vsock:2:1", "@", "", "/" + "x" * 200])
def test_an_address_that_cannot_be_used_is_passed_over(serve, monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    server = serve(SCRIPT)
    assert "is neither a path nor an @name" in server.log


def test_a_manager_that_is_gone_does_no_harm(serve, monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    server = serve(SCRIPT)
    assert server.reload(SCRIPT)


ACTIVATION = """
import fcntl
with socket.socket(socket.AF_UNIX) as channel:
    channel.connect({path!r})
    _, fds, _, _ = socket.recv_fds(channel, 1, 1)
fcntl.fcntl(fds[0], fcntl.F_DUPFD, 10)
os.dup2(fds[0], 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="tidewire.socket")
del os.environ["TIDEWIRE_LISTEN"]
"""


def test_socket_activation_with_notification(serve, started_by, manager, tmp_path):
    """As tidewire.socket and tidewire.service do it: who connects before the start, or between two, is served."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as channel:
        path = str(tmp_path / "channel")
        channel.bind(path)
        channel.listen()
        started_by(ACTIVATION.format(path=path))
        for _ in range(2):
            early = Raw(socket.create_connection(listener.getsockname(), PATIENCE))
            early.send("GET /env HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            server = start_activated(serve, channel, listener)
            assert server.port == listener.getsockname()[1] and "(fd:3)" in server.log
            assert "READY" in manager.next()
            assert early.response().body == "gone"
            early.close()
            assert server.stop() == 0
            assert "STOPPING" in manager.next()


def start_activated(serve, channel, listener):
    """Starts a server whose parent gets the listening socket through the channel."""
    def hand_over():
        with channel.accept()[0] as parent:
            socket.send_fds(parent, [b"x"], [listener.fileno()])
    thread = threading.Thread(target=hand_over)
    thread.start()
    server = serve(SCRIPT)
    thread.join()
    return server


# ---- the file limit ----

LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"


def test_the_file_limit_is_raised_and_told(serve, started_by):
    started_by(LIMIT.format(soft=300, hard=1000))
    server = serve(SCRIPT)
    assert re.search(r"info +up to 820 connections \(file limit 1000\)", server.log)
    with open(f"/proc/{server.pid}/limits", encoding="ascii") as limits:
        assert re.search(r"Max open files +1000 +1000 ", limits.read())


def test_max_connections_beyond_the_file_limit_is_warned_of(serve, started_by):
    started_by(LIMIT.format(soft=1000, hard=1000))
    server = serve(SCRIPT, max_connections=5000)
    assert re.search(r"warn +max_connections is 5000, but a file limit of 1000 has room for 820: raise it", server.log)
    server = serve(SCRIPT, max_connections=820)
    assert "up to 820 connections" in server.log and "room for" not in server.log


# ---- installing ----

def test_make_install_puts_the_units_where_systemd_looks(tmp_path):
    subprocess.run(["make", "-s", "-C", str(ROOT), "-o", "binary", "install", f"DESTDIR={tmp_path}", "PREFIX=/usr"],
                   check=True, timeout=PATIENCE)
    folder = tmp_path / "usr/lib/systemd/system"
    service = (folder / "tidewire.service").read_text(encoding="utf-8")
    assert "ExecStart=/usr/bin/tidewire " in service and "/usr/local" not in service
    assert (folder / "tidewire.socket").exists() and (tmp_path / "usr/bin/tidewire").exists()
