# SPDX-License-Identifier: MIT
"""Started as root with `user`: who the process is then, what it has opened before, what is left at the end. Without root
only that it says so."""
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import conftest
import pytest
from conftest import BINARY, PATIENCE, SANITIZER, Raw, Server, environment, run

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

SCRIPT = """
local f = io.open("{secret}")
log.info("while loading: " .. (f and "reads what is root's" or "does not read what is root's"))
app.get("x", function() return io.open("{secret}") and "reads" or "does not read" end)
"""


@pytest.fixture(name="place")
def open_folder():
    """A folder that every user may read, with a file that only root may."""
    folder = Path(tempfile.mkdtemp(prefix="tidewire-"))
    folder.chmod(0o755)
    (folder / "secret").write_text("x", encoding="utf-8")
    (folder / "secret").chmod(0o600)
    (folder / "main.lua").write_text(SCRIPT.format(secret=folder / "secret"), encoding="utf-8")
    (folder / "run").mkdir()
    os.chown(folder / "run", NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(name="start")
def start_server(place):
    servers = []

    def start(**options):
        options.setdefault("control", place / "run/control.sock")
        servers.append(Server(place / "main.lua", place, **options))
        return servers[-1]
    yield start
    codes = [server.stop(signal.SIGTERM) for server in servers]
    logs = "\n".join(server.log for server in servers)
    for server in servers:
        server.kill()
    assert set(codes) <= {0} and not SANITIZER.search(logs), logs


def threads(server):
    """What /proc says of each thread."""
    found = []
    for task in os.listdir(f"/proc/{server.pid}/task"):
        with open(f"/proc/{server.pid}/task/{task}/status", encoding="utf-8") as status:
            found.append(dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line))
    return found


def ask(address):
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address[5:])
    else:
        sock = socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), PATIENCE)
    with Raw(sock) as client:
        return client.request("GET /x HTTP/1.1\nHost: x\n\n").body


@root_only
@pytest.mark.parametrize("user, uid, gid", [
    ("nobody", NOBODY, NOBODY), ("nobody:daemon", NOBODY, 1), ("65534", NOBODY, NOBODY), ("4711:4712", 4711, 4712)])
def test_every_thread_is_the_user_for_good(start, place, user, uid, gid):
    os.chown(place / "run", uid, gid)
    server = start(user=user, workers=2)
    assert ask(server.address) == "does not read"
    assert "while loading: does not read what is root's" in server.log
    all_threads = threads(server)
    assert len(all_threads) >= 5  # main, two workers, builder, reaper
    for status in all_threads:
        assert status["Uid"].split() == [str(uid)] * 4 and status["Gid"].split() == [str(gid)] * 4
        assert "0" not in status["Groups"].split()
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0 and status["NoNewPrivs"] == "1"
    assert server.stop() == 0
    assert "runs as root" not in server.log


def free_low_port():
    for port in range(600, 1024):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    pytest.skip("no port below 1024 is free")


@root_only
def test_it_listens_below_1024_and_on_unix_sockets_which_are_removed(start, place):
    path = place / "run/web.sock"
    port = free_low_port()
    server = start(user="nobody", listen=f"127.0.0.1:{port},unix:{path}", pid_file=place / "run/pid")
    server.wait_log(f"listening on unix:{path}")
    assert server.port == port
    for address in server.address, f"unix:{path}":
        assert ask(address) == "does not read"
    assert path.stat().st_uid == NOBODY and (place / "run/control.sock").stat().st_uid == NOBODY
    assert (place / "run/pid").stat().st_uid == 0  # whom a service manager believes
    assert server.stop() == 0
    assert os.listdir(place / "run") == []


@root_only
def test_what_cannot_be_removed_is_no_obstacle_to_the_next_start(start, place):
    """In a folder of root's: the sockets stay, and are taken for what they are; the pid file names nobody."""
    options = {"user": "nobody", "listen": f"unix:{place}/web.sock", "control": place / "control.sock",
               "pid_file": place / "pid"}
    for _ in range(2):
        server = start(**options)
        assert (place / "pid").read_text(encoding="ascii") == f"{server.pid}\n"
        assert ask(server.address) == "does not read"
        assert server.stop() == 0
        assert (place / "pid").read_text(encoding="ascii") == "" and (place / "web.sock").exists()


@root_only
@pytest.mark.parametrize("asker, code", [(0, 0), (NOBODY, 0), (1, 1)])
def test_the_control_socket_is_for_that_user_and_root(start, place, asker, code):
    start(user="nobody")
    os.chmod(place / "run/control.sock", 0o777)  # by the peer's user, not by the file alone
    done = run_as(asker, "health", control=place / "run/control.sock")
    assert (done.returncode, done.stdout.startswith("ok ")) == (code, code == 0)


@root_only
def test_a_reload_and_a_worker_of_the_user(start, place):
    server = start(user="nobody")
    (place / "main.lua").write_text('app.get("x", function() return "new" end)', encoding="utf-8")
    server.send_signal(signal.SIGHUP)
    server.wait_log("generation 2 serves")
    assert ask(server.address) == "new"
    assert server.stop() == 0


@root_only
def test_a_script_that_the_user_cannot_read_is_an_error(place):
    (place / "main.lua").chmod(0o600)
    done = run(place / "main.lua", env={"listen": "127.0.0.1:0", "control": place / "run/control", "user": "nobody"})
    assert done.returncode == 1 and re.search(r"main\.lua.*Permission denied", done.stderr)
    assert os.listdir(place / "run") == []


def binary_for_all(place):
    """The binary where every user may run it."""
    copy = place / "tidewire"
    if not copy.exists():
        shutil.copy(BINARY, copy)
        copy.chmod(0o755)
    return str(copy)


def run_as(uid, *args, **options):
    folder = Path(options["control"]).parents[1]
    return subprocess.run([binary_for_all(folder), *map(str, args)], env=environment(**options), text=True, user=uid,
                          group=uid, extra_groups=[], cwd=folder, capture_output=True, timeout=PATIENCE, check=False)


@root_only
@pytest.mark.parametrize("user", ["root", "daemon", "nobody:daemon", "4711:4711"])
def test_who_is_not_root_cannot_become_another(place, user):
    done = run_as(NOBODY, place / "main.lua", listen="127.0.0.1:0", control=place / "run/control", user=user)
    assert done.returncode == 1
    assert re.search(f"only root can become {user}; start it as root, or without `user`", done.stderr)


@root_only
@pytest.mark.parametrize("user", ["nobody", "65534", "nobody:nogroup"])
def test_the_own_user_is_fine_without_root(start, started_by, place, monkeypatch, user):
    monkeypatch.setattr(conftest, "BINARY", binary_for_all(place))
    started_by("os.setgroups([])\nos.setgid(65534)\nos.setuid(65534)")
    server = start(user=user)
    assert ask(server.address) == "does not read"
    assert server.stop() == 0


@pytest.mark.parametrize("user, says", [
    ("no-such-user", "there is no user no-such-user"), ("nobody:no-such-group", "there is no group no-such-group"),
    ("", '"" is neither NAME nor NAME:GROUP'), (":daemon", "is neither NAME"), ("nobody:", "is neither NAME"),
    ("4711", "no entry in the user database, so name its group too, as 4711:4711"), ("x" * 64, "is neither NAME"),
    ("4294967295:1", "there is no user 4294967295"), ("-1", "there is no user -1"), ("root:daemon", "root")])
def test_a_user_that_cannot_be_is_an_error(place, user, says):
    done = run(place / "main.lua", env={"listen": "127.0.0.1:0", "control": place / "run/control", "user": user})
    assert done.returncode == 1 and says in done.stderr and "listening" not in done.stderr


@root_only
@pytest.mark.parametrize("user, warnings", [(None, 1), ("root", 0)])
def test_running_as_root_is_warned_of_once_unless_it_is_asked_for(start, user, warnings):
    server = start(**({"user": user} if user else {}))
    assert ask(server.address) == "reads"
    assert server.stop() == 0
    assert len(re.findall(r"warn .*runs as root", server.log)) == warnings
