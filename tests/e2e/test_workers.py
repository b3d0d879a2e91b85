# SPDX-License-Identifier: MIT
"""Many workers: which one gets a connection, what becomes of it when that one is busy or stops, sockets that the parent
process passes, processors."""
import collections
import os
import re
import signal
import socket

import pytest
from conftest import PATIENCE, Raw, not_under_tsan, run

MANY = int(os.environ.get("TIDEWIRE_TEST_CONNECTIONS", "500"))
FEW = 8  # SPREAD_SLACK, and what several workers that accept at once may be wrong by

SCRIPT = """
app.get("who", function() return tostring(app.worker) end)
app.get("pid", function() return os.getenv("LISTEN_PID") or os.getenv("LISTEN_FDS") or "gone" end)
app.get("busy/**", function(req)
  log.info("busy")
  repeat
    local released = io.open("/" .. req.path:match("^/busy/(.*)$"))
  until released
  return tostring(app.worker)
end)
"""


def open_one(address):
    """A Raw client of what stands behind `listening on`."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(address.removeprefix("unix:"))
        return Raw(sock)
    host, port = address.rsplit(":", 1)
    return Raw(socket.create_connection((host, int(port)), PATIENCE))


def ask(clients, path="/who"):
    """All ask, then all read: the answers in the same order. Each is the only one."""
    for client in clients:
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
    answers = [client.response() for client in clients]
    assert {a.status for a in answers} <= {200}
    assert all(client.buffer == b"" for client in clients)
    return [a.body for a in answers]


class Crowd:
    """Connections by the worker that serves them."""

    def __init__(self, server):
        self.server = server
        self.of = collections.defaultdict(list)

    def __len__(self):
        return sum(map(len, self.of.values()))

    def grow(self, count):
        clients = [open_one(self.server.address) for _ in range(count)]
        for client, worker in zip(clients, ask(clients)):
            self.of[int(worker)].append(client)

    def close(self, worker, but=0):
        while len(self.of[worker]) > but:
            self.of[worker].pop().close()
        self.server.wait_metric("tidewire_connections", len(self))

    def uneven(self, workers):
        counts = [len(self.of[i + 1]) for i in range(workers)]
        return max(counts) - min(counts)

    def settle(self, workers):
        """A worker that was late for a moment has got fewer than the others; then the next ones are for it."""
        for _ in range(3):
            if self.uneven(workers) > FEW:
                self.grow(self.uneven(workers))
        assert self.uneven(workers) <= FEW

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for clients in self.of.values():
            for client in clients:
                client.close()


@pytest.fixture(name="listen", params=["tcp", "unix"])
def listen_of_each_kind(request, tmp_path):
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/web.sock"


# ---- spreading ----

@not_under_tsan  # a worker that is late gets no connections until it is back
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("count", [10, 100, MANY])
def test_a_burst_of_connections_spreads_evenly(serve, listen, workers, count):
    with Crowd(serve(SCRIPT, listen=listen, workers=workers)) as crowd:
        crowd.grow(count)
        assert crowd.uneven(workers) <= FEW
        metrics = crowd.server.metrics()
        for name in "connections", "connections_accepted_total", "http_requests_total":
            assert metrics[f"tidewire_{name}"] == count


@pytest.mark.parametrize("workers", [2, 4])
def test_the_spread_is_even_again_after_those_of_one_worker_have_gone(serve, listen, workers):
    with Crowd(serve(SCRIPT, listen=listen, workers=workers)) as crowd:
        crowd.grow(60 * workers)
        crowd.settle(workers)
        gone = len(crowd.of[1])
        crowd.close(1)
        crowd.grow(gone)
        crowd.settle(workers)


def test_a_connection_stays_with_its_worker(serve, listen):
    with Crowd(serve(SCRIPT, listen=listen, workers=3)) as crowd:
        crowd.grow(30)
        for worker, clients in list(crowd.of.items()):
            assert ask(clients) == [str(worker)] * len(clients)


def test_one_worker_hands_nothing_over(serve, listen):
    with Crowd(serve(SCRIPT, listen=listen)) as crowd:
        crowd.grow(30)
        assert len(crowd.of[1]) == 30
        assert crowd.server.metrics()["tidewire_connections_handed_over_total"] == 0


def test_who_the_client_is_goes_with_the_connection(serve):
    script = 'app.get("who", function(req) return app.worker .. " " .. req.remote_address end)'
    server = serve(script, listen="proxy:127.0.0.1:0", trusted_proxies="127.0.0.1", workers=2)
    clients = [open_one(server.address) for _ in range(40)]
    for i, client in enumerate(clients):
        client.send(f"PROXY TCP4 192.0.2.{i + 1} 127.0.0.1 1 2\r\n")
    seen = [answer.split() for answer in ask(clients)]
    assert [address for _, address in seen] == [f"192.0.2.{i + 1}" for i in range(40)]
    assert {worker for worker, _ in seen} == {"1", "2"}
    for client in clients:
        client.close()


def test_connections_of_an_address_are_counted_across_workers(serve):
    server = serve(SCRIPT, workers=2, max_connections_per_address=20)
    with Crowd(server) as crowd:
        crowd.grow(20)
        with open_one(server.address) as client:
            assert client.response().status == 429
        crowd.close(1)
        crowd.grow(20 - len(crowd))
        assert len(crowd) == 20


# ---- a worker that is busy ----

@pytest.mark.parametrize("workers, busy", [(2, 1), (3, 2)])
def test_new_connections_are_answered_while_workers_are_busy(serve, listen, tmp_path, workers, busy):
    server = serve(SCRIPT, listen=listen, workers=workers, handler_budget=1000)
    release = tmp_path / "release"
    with Crowd(server) as crowd:
        crowd.grow(20 * workers)
        for worker in range(1, busy + 1):  # they have the fewest, so that connections are handed to them at first
            crowd.close(worker, but=1)
        held = []
        for worker in range(1, busy + 1):
            start = server.mark()
            held += crowd.of.pop(worker)
            held[-1].send(f"GET /busy{release} HTTP/1.1\r\nHost: x\r\n\r\n")
            server.wait_log("busy", start)
        crowd.grow(50)
        assert set(crowd.of) == set(range(busy + 1, workers + 1))
        for client in held:
            client.sock.setblocking(False)
            with pytest.raises(BlockingIOError):  # they are still busy
                client.sock.recv(1)
            client.sock.settimeout(PATIENCE)
        release.touch()
        assert [client.response().body for client in held] == [str(i + 1) for i in range(busy)]
        crowd.grow(50)  # now they have the fewest
        assert all(crowd.of[worker] for worker in range(1, busy + 1))
        for client in held:
            client.close()


# ---- stopping ----

def until_end(client):
    """All that came until the end of the stream, however that came."""
    data = client.buffer
    try:
        while piece := client.sock.recv(65536):
            data += piece
    except ConnectionError:
        pass
    client.close()
    return data


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_stop_in_the_middle_of_a_burst_answers_each_connection_once(serve, listen, workers):
    server = serve(SCRIPT, listen=listen, workers=workers)
    before, after = [], []
    for _ in range(200):
        before.append(open_one(server.address))
        before[-1].send("GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
    server.send_signal(signal.SIGTERM)
    try:
        for _ in range(200):
            client = open_one(server.address)
            after.append(client)
            client.send("GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
    except (ConnectionError, FileNotFoundError):
        pass
    for client in before:
        answer = until_end(client)
        assert re.match(rb"HTTP/1.1 (200|503) ", answer) and answer.count(b"HTTP/1.1") == 1
    for client in after:
        answer = until_end(client)
        assert answer == b"" or answer.count(b"HTTP/1.1") == 1
    assert server.stop(None) == 0


# ---- sockets that the parent process passes ----

TCP_SOCKET = """
tcp = socket.create_server(("127.0.0.1", 0))
os.dup2(tcp.fileno(), 3)
"""
UNIX_SOCKET = """
unix = socket.socket(socket.AF_UNIX)
unix.bind({path!r})
unix.listen()
os.dup2(unix.fileno(), 4)
"""
# Not before descriptors 3 and 4 are taken: dup2 would close what has one of these numbers.
RESERVE = "reserved = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]\n"
ACTIVATION = """
os.environ.update(LISTEN_PID=str(os.getpid() + {off}), LISTEN_FDS="2", LISTEN_FDNAMES="a:b")
"""


def test_listens_on_an_inherited_socket(serve, started_by, tmp_path):
    path = str(tmp_path / "web.sock")
    started_by(RESERVE + TCP_SOCKET + UNIX_SOCKET.format(path=path))
    server = serve(SCRIPT, listen="fd:3,fd:4", workers=2)
    server.wait_log(re.escape(f"listening on {server.address} (fd:3)"))
    server.wait_log(re.escape(f"listening on unix:{path} (fd:4)"))
    for address in server.address, f"unix:{path}":
        server.address = address
        with Crowd(server) as crowd:
            crowd.grow(40)
            crowd.settle(2)
        server.wait_metric("tidewire_connections", 0)
    assert server.stop() == 0
    assert os.path.exists(path)  # it is the parent's


def test_inherited_socket_with_the_proxy_protocol(serve, started_by):
    started_by(RESERVE + TCP_SOCKET)
    server = serve('app.get("who", function(req) return req.remote_address end)', listen="proxy:fd:3",
                   trusted_proxies="127.0.0.1")
    with open_one(server.address) as client:
        client.send("PROXY TCP4 192.0.2.9 127.0.0.1 1 2\r\n")
        assert ask([client]) == ["192.0.2.9"]


def test_an_inherited_socket_goes_on_listening_after_the_end(serve, started_by, tmp_path):
    """For whoever else has it: the parent, the next server."""
    path = str(tmp_path / "channel")
    with socket.socket(socket.AF_UNIX) as channel:
        channel.bind(path)
        channel.listen()
        channel.settimeout(PATIENCE)
        started_by(RESERVE + TCP_SOCKET + "channel = socket.socket(socket.AF_UNIX)\n"
                   f"channel.connect({path!r})\nsocket.send_fds(channel, [b'x'], [3])\n")
        server = serve(SCRIPT, listen="fd:3")
        with channel.accept()[0] as sender, open_one(server.address) as client:
            ours = socket.socket(fileno=socket.recv_fds(sender, 1, 1)[1][0])
            assert ask([client]) == ["1"]
    server.stop()
    with ours, open_one(server.address):
        ours.settimeout(PATIENCE)
        ours.accept()[0].close()


@pytest.mark.parametrize("address, code, message", [
    ("fd:900", 1, "the parent process has passed no such descriptor"),
    ("fd:0", 1, "it is not a stream socket that listens"),
    ("fd:", 2, "expected the number of a descriptor"),
    ("fd:three", 2, "expected the number of a descriptor"),
    ("fd:-1", 2, "expected the number of a descriptor"),
])
def test_what_is_no_inherited_socket_is_an_error(tmp_path, address, code, message):
    script = tmp_path / "main.lua"
    script.write_text(SCRIPT, encoding="utf-8")
    with open(os.devnull, encoding="utf-8") as null:
        done = run(script, env={"listen": address, "control": tmp_path / "control"}, stdin=null)
    assert done.returncode == code and message in done.stderr and address in done.stderr


def test_an_inherited_socket_is_named_once(started_by, tmp_path):
    started_by(RESERVE + TCP_SOCKET)
    script = tmp_path / "main.lua"
    script.write_text(SCRIPT, encoding="utf-8")
    done = run(script, env={"listen": "fd:3,proxy:fd:3", "trusted_proxies": "loopback", "control": tmp_path / "control"})
    assert done.returncode == 1 and "named twice" in done.stderr


def test_socket_activation(serve, started_by, tmp_path):
    path = str(tmp_path / "web.sock")
    started_by(RESERVE + TCP_SOCKET + UNIX_SOCKET.format(path=path) + ACTIVATION.format(off=0) +
               "del os.environ['TIDEWIRE_LISTEN']")
    server = serve(SCRIPT, workers=2)
    server.wait_log(re.escape(f"listening on {server.address} (fd:3)"))
    server.wait_log(re.escape(f"listening on unix:{path} (fd:4)"))
    assert server.log.count("listening on") == 2
    for address in server.address, f"unix:{path}":
        with open_one(address) as client:
            assert ask([client], "/pid") == ["gone"]


@pytest.mark.parametrize("off", [0, 1])
def test_socket_activation_is_not_for_one_that_is_told_where_to_listen(serve, started_by, tmp_path, off):
    started_by(RESERVE + TCP_SOCKET + UNIX_SOCKET.format(path=str(tmp_path / "web.sock")) + ACTIVATION.format(off=off))
    server = serve(SCRIPT)
    assert server.log.count("listening on") == 1 and "fd:" not in server.log
    with open_one(server.address) as client:
        assert ask([client], "/pid") == ["gone"]


# ---- processors ----

def processors(server):
    """{"tidewire/1": "0", ...}: where each thread may run."""
    found = {}
    for task in os.listdir(f"/proc/{server.pid}/task"):
        with open(f"/proc/{server.pid}/task/{task}/status", encoding="utf-8") as status:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
        found[fields["Name"]] = fields["Cpus_allowed_list"]
    return found


@pytest.mark.parametrize("pin", [True, False])
def test_pin_workers(serve, pin):
    mine = sorted(os.sched_getaffinity(0))
    with Crowd(serve(SCRIPT, *(["--pin-workers"] if pin else []), workers=3)) as crowd:
        crowd.grow(30)
        assert set(crowd.of) == {1, 2, 3}  # all have begun
        found = processors(crowd.server)
        everywhere = found["tidewire"]
        for i in range(3):
            assert found[f"tidewire/{i + 1}"] == (str(mine[i % len(mine)]) if pin else everywhere)


def test_auto_counts_the_processors_that_the_process_may_use(serve, started_by):
    started_by("os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})")
    server = serve(SCRIPT, "--pin-workers", workers="auto")
    assert ", 1 worker, " in server.ask("health")
    with open_one(server.address) as client:
        assert ask([client]) == ["1"]
    assert processors(server)["tidewire/1"] == str(max(os.sched_getaffinity(0)))
