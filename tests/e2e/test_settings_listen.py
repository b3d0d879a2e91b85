# SPDX-License-Identifier: MIT
"""Addresses come and go at a reload: nothing happens to the connections of those that stay, nor to those that a removed
address has accepted or the kernel has queued there."""
import os
import re
import socket
import stat
import threading
from pathlib import Path

import pytest

from conftest import BINARY, PATIENCE, Raw
from configured import SCRIPT, Configured, addresses, free_everywhere, get, lua, put
from migrating import ask, served_by, tell

UNDER_TSAN = "tsan" in BINARY


def quoted(*items):
    return "{" + ", ".join(f'"{item}"' for item in items) + "}"


@pytest.fixture(name="listening")
def listening_fixture(serve, tmp_path):
    return lambda *items, **options: Listening(serve, tmp_path, items, options)


class Listening(Configured):
    def __init__(self, serve, folder, items, options):
        self.values = {"trusted_proxies": '{"private"}'}
        super().__init__(serve, folder, {**self.values, "listen": quoted(*items)}, listen=None, **options)
        for item in items:
            self.told(f"listening on {re.escape(item[:item.rindex(':') + 1].removeprefix('proxy:'))}")

    def listen(self, *items):
        """Reloads with these addresses; returns the log's line number from before."""
        start = self.server.mark()
        assert self.reload({**self.values, "listen": quoted(*items)}), self.server.log
        return start

    def port(self, host, start=0):
        return int(self.told(rf" listening on {re.escape(host)}:(\d+)", start).group(1))

    def gone(self, what, start=0):
        self.told(rf"no longer listening on {re.escape(what)}", start)


def listening_sockets(server):
    """The inodes of those that the process has."""
    mine = {os.readlink(link) for link in Path(f"/proc/{server.pid}/fd").iterdir()}
    found = []
    for name, state, inode in (("tcp", (3, "0A"), 9), ("unix", (3, "00010000"), 6)):
        for line in Path(f"/proc/{server.pid}/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[state[0]] == state[1] and f"socket:[{words[inode]}]" in mine:
                found.append(words[inode])
    return found


def connect(host, port):
    return Raw(socket.create_connection((host, port), PATIENCE))


def generation(client):
    return served_by(client).split()[1]


def test_an_address_is_added_and_one_taken_away(listening):
    c = listening("127.0.0.1:0", "127.0.0.2:0", workers=2)
    stays, leaves = c.port("127.0.0.1"), c.port("127.0.0.2")
    with connect("127.0.0.1", stays).upgrade("/run") as one, connect("127.0.0.2", leaves).upgrade("/run") as two:
        start = c.listen("127.0.0.1:0", "127.0.0.3:0")
        c.told(r"configuration: listen \+ 127\.0\.0\.3:0 - 127\.0\.0\.2:0\n", start)
        with connect("127.0.0.3", c.port("127.0.0.3", start)).upgrade("/run") as three:
            assert generation(three) == "2"
        c.gone(f"127.0.0.2:{leaves}", start)
        with pytest.raises(ConnectionRefusedError):
            connect("127.0.0.2", leaves)
        assert generation(one) == generation(two) == "2"  # open as before
        with connect("127.0.0.1", stays).upgrade("/run") as again:
            assert generation(again) == "2"
    assert len(addresses(c.server)) == 3


def test_a_unix_socket_is_added_and_taken_away(listening, tmp_path):
    path = tmp_path / "web.sock"

    def unix():
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(PATIENCE)
        s.connect(str(path))
        return Raw(s)

    c = listening("127.0.0.1:0", workers=2)
    for _ in range(2):
        start = c.listen("127.0.0.1:0", f"unix:{path}")
        assert stat.S_ISSOCK(path.stat().st_mode)
        with unix() as client:
            assert get(client, "/name").body == "one"
            start = c.listen("127.0.0.1:0")
            assert not path.exists()
            assert get(client, "/name").body == "one"
            c.listen("127.0.0.1:0", f"unix:{path}")  # at once, while the one before is still being left
            with unix() as other:
                assert get(other, "/name").body == "one"
            c.gone(f"unix:{path}", start)
            with unix() as other:
                assert get(other, "/name").body == "one"
        c.listen("127.0.0.1:0")


def test_when_one_cannot_be_bound_the_others_are_closed_again(listening, tmp_path):
    c = listening("127.0.0.1:0")
    path = tmp_path / "web.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        start = c.server.mark()
        c.refused({"listen": quoted("127.0.0.2:0", f"unix:{path}", f"127.0.0.1:{taken.getsockname()[1]}")},
                  r"listen: cannot listen on 127\.0\.0\.1:\d+: address already in use")
        assert not path.exists() and not addresses(c.server, start)
        assert len(listening_sockets(c.server)) == 2  # its own, and the control socket
    with c.server.raw("/run") as client:
        assert served_by(client) == "one 1"
    start = c.listen("127.0.0.1:0", f"unix:{path}")
    assert path.exists()


def test_only_what_is_written_before_the_address_changes(listening, tmp_path):
    """proxy: comes and goes without the socket being another one."""
    path = tmp_path / "web.sock"

    def who(hello):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(str(path))
            client = Raw(s)
            client.send(hello)
            return get(client, "/who").body

    c = listening(f"unix:{path}")
    inode = path.stat().st_ino
    assert who(b"") == "unix:"
    start = c.listen(f"proxy:unix:{path}")
    assert who(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n") == "192.0.2.1"
    c.listen(f"unix:{path}")
    assert who(b"") == "unix:"
    assert path.stat().st_ino == inode and not addresses(c.server, start)


def test_one_address_of_the_machine_becomes_all(listening):
    """The new one is bound while the old one still has its port."""
    port = free_everywhere()
    c = listening(f"127.0.0.1:{port}", workers=2)
    with connect("127.0.0.1", port).upgrade("/run") as client:
        start = c.listen(f"*:{port}")
        c.told(rf" listening on 0\.0\.0\.0:{port}\n", start)
        with connect("127.0.0.9", port).upgrade("/run") as other:
            assert generation(other) == "2"
        c.gone(f"127.0.0.1:{port}", start)
        with connect("127.0.0.1", port).upgrade("/run") as other:
            assert generation(other) == "2"
        assert generation(client) == "2"


def test_another_servers_port_is_not_shared_because_of_that(listening):
    c = listening("127.0.0.1:0")
    port = c.port("127.0.0.1")
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))
        other.listen()
        c.refused({"listen": quoted(f"*:{port}")}, r"listen: cannot listen on \S+: address already in use")
        c.refused({"listen": quoted("127.0.0.1:0", f"127.0.0.2:{port}")}, r"address already in use")


def test_an_address_comes_back_while_it_is_being_left(listening, tmp_path):
    """The worker is busy through both reloads, so that it has not left yet when it is to stay: the port is the same."""
    go = tmp_path / "go"
    c = listening("127.0.0.1:0", "127.0.0.2:0", handler_budget=3600)
    port = c.port("127.0.0.2")
    with connect("127.0.0.1", c.port("127.0.0.1")).upgrade("/run") as client:
        tell(client, f"repeat until exists('{go}')")
        c.server.wait_metric("tidewire_messages_received_total", lambda n: n > 0)
        start = c.listen("127.0.0.1:0")
        again = c.listen("127.0.0.1:0", "127.0.0.2:0")
        assert c.port("127.0.0.2", again) == port
        put(go, "")
        assert client.text() == ""
        with connect("127.0.0.2", port).upgrade("/run") as other:
            assert generation(other) == "3"
        assert generation(client) == "3"
    assert "no longer" not in "\n".join(c.server.log.splitlines()[start:])


def test_what_the_kernel_has_queued_is_served_after_the_address_is_gone(listening, tmp_path):
    go = tmp_path / "go"
    c = listening("127.0.0.1:0", "127.0.0.2:0", handler_budget=3600)
    port = c.port("127.0.0.2")
    with connect("127.0.0.1", c.port("127.0.0.1")).upgrade("/run") as client:
        tell(client, f"repeat until exists('{go}')")
        c.server.wait_metric("tidewire_received_bytes_total", lambda n: n > 0)
        queued = [connect("127.0.0.2", port) for _ in range(20)]
        start = c.listen("127.0.0.1:0")
        put(go, "")
        for one in queued:
            with one:
                assert get(one, "/name").body == "one"
        c.gone(f"127.0.0.2:{port}", start)


INHERITED = """
tcp = socket.create_server(("127.0.0.1", 0))
os.dup2(tcp.fileno(), 9)
"""
ACTIVATED = """
reserved = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
tcp = socket.create_server(("127.0.0.1", 0))
os.dup2(tcp.fileno(), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
"""


@pytest.mark.parametrize("parent, number, values", [
    (INHERITED, 9, {"listen": '"fd:9"'}),
    (ACTIVATED, 3, {}),
], ids=["named", "socket activation"])
def test_inherited_sockets_stay(serve, tmp_path, started_by, parent, number, values):
    """They could not be had again: they are kept, and that is said."""
    started_by(parent)
    c = Configured(serve, tmp_path, values, listen=None)
    assert c.reload({**values, "max_message": 98})
    start = c.server.mark()
    assert c.reload({"listen": quoted("127.0.0.2:0"), "max_message": 99})
    c.told(rf"warn +listen: fd:{number} stays until a restart \(it is not in the file\)\n", start)
    c.told(r"configuration: listen \+ 127\.0\.0\.2:0, max_message 98 -> 99\n", start)
    with c.server.raw("/run") as client:
        assert generation(client) == "3"


class Storm:
    """Connections without end to the address of the moment and, every other time, to the one before."""

    def __init__(self, threads):
        self.targets = []  # (host, port), the newest last
        self.served, self.refused, self.wrong = 0, 0, []
        self.lock, self.over = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(threads)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def run(self, number):
        turn = number
        while not self.over.is_set():
            turn += 1
            host, port = self.targets[-1 if turn % 2 or len(self.targets) == 1 else -2]
            newest = (host, port) == self.targets[-1]
            try:
                with connect(host, port) as client:
                    client.send(b"GET /name HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    fine = client.response().body == "one"
            except ConnectionRefusedError:
                # it was the newest when this began: then it must at least have been another's turn since
                with self.lock:
                    self.refused += 1
                    if newest and (host, port) == self.targets[-1]:
                        self.wrong.append(f"{host}:{port} refuses although it is the newest")
                continue
            except (OSError, AssertionError) as error:
                with self.lock:
                    self.wrong.append(f"{host}:{port}: {error!r}")
                continue
            with self.lock:
                self.served += 1
                if not fine:
                    self.wrong.append(f"{host}:{port}: another answer")

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_an_address_moves_under_a_storm_of_connections(listening):
    """Nobody is reset, and nobody refused but at an address that is gone."""
    rounds = 4 if UNDER_TSAN else 8
    c = listening("127.0.0.1:0", workers=2)
    storm = Storm(8)
    storm.targets.append(("127.0.0.1", c.port("127.0.0.1")))
    storm.start()
    try:
        for number in range(2, 2 + rounds):
            host, before = f"127.0.0.{number}", storm.targets[-1]
            served = storm.served
            # for a while there are both, so that the clients can learn of the new one
            start = c.listen(f"{before[0]}:0", f"{host}:0")
            storm.targets.append((host, c.port(host, start)))
            c.listen(f"{host}:0")
            c.gone(f"{before[0]}:{before[1]}", start)
            while storm.served < served + 50:
                c.server.metrics()
    finally:
        storm.stop()
    assert not storm.wrong, storm.wrong[:10]
    assert storm.served > rounds * 50
