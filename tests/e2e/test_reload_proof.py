# SPDX-License-Identifier: MIT
"""The proof of the hot reload: a fleet of clients with numbered traffic in both directions goes on through many
reloads, a third of them with broken scripts. Nothing is lost, doubled or reordered, nobody is disconnected.

The fleet is one thread, and what it does next depends only on what has arrived. The long form has
TIDEWIRE_TEST_RELOADS=300.
"""
import collections
import json
import os
import re
import selectors
import signal
import socket
import time
from pathlib import Path

import pytest

from conftest import (BINARY, BINARY_OP, CLOSE, CONT, PATIENCE, PING, PONG, TEXT, Raw, close_payload, frame,
                      not_under_tsan)

UNDER_TSAN = f"{os.sep}tsan{os.sep}" in BINARY
RELOADS = int(os.environ.get("TIDEWIRE_TEST_RELOADS", "27" if UNDER_TSAN else "42"))
BETWEEN = 100 if UNDER_TSAN else 300  # messages that arrive between two reloads, at least
MEMORY_RELOADS = int(os.environ.get("TIDEWIRE_TEST_MEMORY_RELOADS", "100"))
MEMORY_CONNECTIONS = 200
MIB = 1 << 20

# What a client is told: "hello" or "moved" once for each version of the code that takes it over; "pub" and "tick" come
# by a topic; everything else is the answer to its own messages, in their order. The large states make the moving take
# several rounds of the loop, in which messages come. RAISE stands for what makes a move fail: while such code is the
# newest, messages may be handled by any older one.
SCRIPT = """
local variant = require "part"

local function promised(seconds)
  local promise = app.promise()
  app.after(seconds, function() promise:resolve() end)
  promise:await()
end

local waits = {
  sleep = function() app.sleep(0.002) end,
  promise = function() promised(0.003) end,
  long = function(n) if n % 4 == 0 then app.sleep(0.3) end end,
}

local function told(ok)
  app.shared.incr(ok and "done" or "undone")
end

local function answer(ws, kind, data, send)
  assert(ws.generation == app.generation and app.generation >= app.shared.get("newest " .. app.worker))
  local state, role, id = ws.state, ws.params.role, ws.params.id
  state[kind] = state[kind] + 1
  state.bytes = state.bytes + #data
  local n = state.text + state.binary
  if waits[role] then waits[role](n) end
  local number = ("%s %d %d"):format(id, n, app.generation)
  if role == "others" then assert(ws:publish("all", "pub " .. number)) end
  if role == "all" then assert(app.publish("all", "pub " .. number)) end
  assert(send(ws, ("%d %s %d "):format(app.generation, variant, n) .. data, n % 8 == 0 and told or nil))
end

app.websocket("c/:role/:id", {send_limit = 4 * 1024 * 1024}, function(ws)
  RAISE
  if not ws.migrated then
    local state = ws.state
    state.text, state.binary, state.pings, state.bytes, state.moves = 0, 0, 0, 0, 0
    state.of = {id = ws.params.id}
    state.big = {}
    for i = 1, ws.params.role == "quiet" and 20000 or 0 do state.big[i] = i end
    if not ws.params.role:find("^quiet") then ws:subscribe("all") end
  else
    ws.state.moves = ws.state.moves + 1
  end
  ws:send(("%s %d %s"):format(ws.migrated and "moved" or "hello", app.generation, variant))
  ws:on_text(function(ws, text)
    if text == "?" then
      ws.state.big = #ws.state.big
      return ws:send("counts " .. json.encode(ws.state))
    end
    answer(ws, "text", text, ws.send)
  end)
  ws:on_binary(function(ws, bytes) answer(ws, "binary", bytes, ws.send_binary) end)
  ws:on_ping(function(ws) ws.state.pings = ws.state.pings + 1 end)
  ws:on_close(function(ws, code)
    app.shared.incr("closed " .. code)
    app.shared.incr("counted", ws.state.text + ws.state.binary)
  end)
end)

app.get("totals", function()
  local totals = {}
  for _, key in ipairs(app.shared.keys()) do totals[key] = app.shared.get(key) end
  return totals
end)

app.on_start(function()
  app.shared.incr("started")
  app.shared.set("newest " .. app.worker, [==[RAISE]==] == "" and app.generation or 0)
end)
app.on_stop(function() app.shared.incr("stopped") end)

local ticks = 0
app.every(0.02, function()
  ticks = ticks + 1
  app.publish("all", ("tick %d %d %d"):format(app.worker, app.generation, ticks))
end)
"""
PART = "return 'v{}'"

ROLES = ["plain"] * 8 + ["sleep"] * 4 + ["promise"] * 4 + ["long"] * 2 + ["others"] * 4 + ["all"] * 4 + \
    ["slow"] * 4 + ["trickle"] * 4 + ["quiet"] * 8
PUBLISHERS = ("others", "all")

# What is appended to the script, or None where the files are spoilt in another way.
BROKEN = {
    "syntax": "app.websocket(",
    "load error": "error('broken')",
    "missing module": "require 'nowhere'",
    "routes that differ": "if app.worker == 2 then app.get('only', function() return '' end) end",
    "memory": "local t = {} for i = 1, math.huge do t[i] = ('x'):rep(4096) .. i end",
    "raises for all": None,
    "endless": "while true do end",
    "module with a fault": None,
    "no file": None,
}
REFUSED, SERVES, BACK = "reload refused", r"generation (\d+) serves new connections", "going back to the code before"


def script(folder, first=""):
    """Good code that finds its module in `folder`; `first` is what the route's function begins with."""
    return f"package.path = '{folder}/?.lua'" + SCRIPT.replace("RAISE", first)


def mask_of(number):
    return (0x9E3779B1 * (number + 1) & 0xFFFFFFFF).to_bytes(4, "big")


def masked(opcode, payload, fin, number):
    """A frame's bytes, fast: frame() of conftest masks byte by byte."""
    mask, size = mask_of(number), len(payload)
    pad = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    head = frame(opcode, b"", fin, mask=b"", length=size)
    return head + mask + (int.from_bytes(payload, "big") ^ pad).to_bytes(size, "big")


class Peer:
    """One client: what it has sent and is owed, and what it has been told."""

    def __init__(self, fleet, role, number):
        self.fleet, self.role, self.number = fleet, role, number
        self.sock = socket.socket()
        if role == "slow":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("127.0.0.1", fleet.server.port))
        raw = Raw(self.sock).upgrade(f"/c/{role}/{number}")
        self.sock.setblocking(False)
        self.arrived, self.out = bytearray(raw.buffer), bytearray()
        self.read_at_once = 1024 if role == "slow" else 65536
        self.window = 0 if role == "quiet" else 4
        self.owed, self.pongs = collections.deque(), collections.deque()
        self.sent = {"text": 0, "binary": 0, "pings": 0, "bytes": 0}
        self.answers = self.done = self.generation = self.moves = 0
        self.heard = {}  # the last message of each publisher
        self.ticks = {}  # of each worker: (generation, number)
        self.counts = None
        self.leaving = self.closing = self.left = self.may_be_cut = False
        self.close_code = None

    # ---- sending ----

    def say(self):
        """The next message: text and binary, of every length field, whole and in fragments with pings between them."""
        n = self.sent["text"] + self.sent["binary"] + 1
        kind = (self.number + n) % 6
        size = (10, 20, 300, 200, 3000, 70_000 if n % 10 == 1 else 6000)[kind]
        if self.role == "slow":
            size = 12_000
        text = kind in (0, 2, 3)
        data = f"{self.number} {n} ".encode()
        data += ("é€x𝄞" * (size // 10 + 1)).encode() if text else bytes(range(256)) * (size // 256 + 1)
        opcode = TEXT if text else BINARY_OP
        if kind in (3, 4):
            cuts = [0, n % len(data), n % len(data), len(data) - 1, len(data)]  # inside characters; one is empty
            cuts.sort()
            for i, (start, end) in enumerate(zip(cuts, cuts[1:])):
                self.out += masked(opcode if i == 0 else CONT, data[start:end], end == len(data) and i == 3, n + i)
                if i < 3:
                    self.ping(f"{n} {i}".encode())
        else:
            self.out += masked(opcode, data, True, n)
        self.sent["text" if text else "binary"] += 1
        self.sent["bytes"] += len(data)
        self.owed.append((opcode, data))

    def ping(self, payload):
        self.out += masked(PING, payload, True, len(payload))
        self.pongs.append(payload)
        self.sent["pings"] += 1

    def may_say(self):
        if not self.fleet.busy or self.leaving or len(self.owed) >= self.window:
            return False
        return self.role not in PUBLISHERS or self.fleet.may_publish(self.number)

    def go_on(self):
        while self.may_say():
            if self.role in PUBLISHERS:
                self.fleet.published[self.number] += 1
            self.say()
        if self.leaving and not self.closing and self.is_idle():
            self.out += masked(CLOSE, close_payload(1000), True, 0)
            self.closing = True
        if self.out:
            self.write()

    def write(self):
        try:
            sent = self.sock.send(self.out[:50] if self.role == "trickle" else self.out)
        except BlockingIOError:
            return
        except ConnectionError:
            assert self.may_be_cut, self
            self.left = True
            return
        del self.out[:sent]

    def is_idle(self):
        return not self.owed and not self.out and not self.pongs

    # ---- receiving ----

    def read(self):
        try:
            piece = self.sock.recv(self.read_at_once)
        except BlockingIOError:
            return
        except ConnectionResetError:
            assert self.may_be_cut, self
            piece = b""
        if not piece:
            assert self.closing or self.may_be_cut, f"{self} was cut"
            assert not self.arrived, f"{self} got half a frame: {bytes(self.arrived[:80])!r}"
            self.left = True
            return
        self.arrived += piece
        at = 0
        while len(self.arrived) - at >= 2:
            first, size, start = self.arrived[at], self.arrived[at + 1], at + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size = int.from_bytes(self.arrived[start:start + width], "big")
                start += width
            if len(self.arrived) < start + size:
                break
            at = start + size
            assert first & 0xF0 == 0x80, hex(first)
            self.on_frame(first & 15, bytes(self.arrived[start:at]))
        del self.arrived[:at]

    def __str__(self):
        return f"client {self.number} ({self.role}), generation {self.generation}, after {self.answers} answers"

    def on_frame(self, opcode, data):
        if opcode == PONG:
            assert data == self.pongs.popleft(), self
        elif opcode == PING:
            self.out += masked(PONG, data, True, 0)
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(data[:2], "big")
            assert self.may_be_cut or (self.closing and self.close_code == 1000), f"{self} was closed: {data!r}"
            if not self.closing:
                self.window, self.out = 0, bytearray(masked(CLOSE, data[:2], True, 0))
        elif opcode == TEXT and data[:1] in b"chmpt":
            word, _, rest = data.partition(b" ")
            getattr(self, "on_" + word.decode())(rest)
        else:
            self.on_answer(opcode, data)

    def on_answer(self, opcode, data):
        expected_opcode, expected = self.owed.popleft()
        generation, variant, n, rest = data.split(b" ", 3)
        self.answers += 1
        self.done += self.answers % 8 == 0
        assert (opcode, int(n)) == (expected_opcode, self.answers), f"{self}: {data[:80]!r}"
        assert rest == expected, f"{self}: {data[:80]!r}"
        assert int(generation) == self.generation, f"{self}: {data[:80]!r}"
        self.fleet.learn(self.generation, variant)
        self.fleet.received += 1

    def on_hello(self, rest):
        assert self.generation == 0, self
        self.take_generation(rest)

    def on_moved(self, rest):
        assert self.generation > 0, self
        self.moves += 1
        self.take_generation(rest)

    def take_generation(self, rest):
        generation, variant = rest.split(b" ")
        assert int(generation) > self.generation, f"{self}: {rest!r}"
        self.generation = int(generation)
        self.fleet.learn(self.generation, variant)

    def on_pub(self, rest):
        publisher, number, generation = map(int, rest.split(b" "))
        last, last_generation = self.heard.get(publisher, (0, 0))
        assert number == last + 1 and generation >= last_generation, f"{self}: {rest!r} after {last}"
        self.heard[publisher] = (number, generation)
        self.fleet.delivered[publisher] += 1

    def on_tick(self, rest):
        worker, generation, number = map(int, rest.split(b" "))
        last = self.ticks.get(worker)
        if last is not None:
            follows = (generation, number) == (last[0], last[1] + 1) or (generation > last[0] and number == 1)
            assert follows, f"{self}: tick {rest!r} after {last}"
        self.ticks[worker] = (generation, number)

    def on_counts(self, rest):
        self.counts = json.loads(rest)


class Fleet:
    """All clients, the loop that serves them, and the server that is reloaded meanwhile."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.built_at_start = server.metrics()['tidewire_reloads_total{outcome="ok"}']
        self.selector = selectors.DefaultSelector()
        self.peers, self.gone = [], []
        self.busy = True
        self.received = 0  # answers
        self.published, self.delivered = collections.Counter(), collections.Counter()
        self.variants = {}  # of each generation
        self.receivers = sum(role != "quiet" for role in ROLES)
        for role in ROLES:
            self.add(role)

    def add(self, role):
        peer = Peer(self, role, len(self.peers) + len(self.gone) + 1)
        self.peers.append(peer)
        self.selector.register(peer.sock, selectors.EVENT_READ, peer)
        return peer

    def due(self, number):
        """How many deliveries there must be of what a publisher has published."""
        role = ROLES[number - 1]
        return self.published[number] * (self.receivers - (role == "others"))

    def may_publish(self, number):
        return self.due(number) - self.delivered[number] < 4 * self.receivers

    def learn(self, generation, variant):
        assert self.variants.setdefault(generation, variant) == variant, f"generation {generation}: {variant}"

    def turn(self):
        for key, events in self.selector.select(0.01):
            if events & selectors.EVENT_READ:
                key.data.read()
        for peer in self.peers:
            peer.go_on()
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.out else 0)
            if peer.left:
                self.selector.unregister(peer.sock)
                peer.sock.close()
                self.gone.append(peer)
            elif self.selector.get_key(peer.sock).events != events:
                self.selector.modify(peer.sock, events, peer)
        self.peers = [peer for peer in self.peers if not peer.left]

    def until(self, reached, what):
        deadline = time.monotonic() + PATIENCE
        while not (result := reached()):
            assert time.monotonic() < deadline, f"{what}:\n{self.server.log[-5000:]}"
            self.turn()
        return result

    def until_logged(self, pattern, start):
        return self.until(lambda: re.search(pattern, "\n".join(self.server.lines[start:])), pattern)

    def until_received(self, n):
        goal = self.received + n
        self.until(lambda: self.received >= goal, "too few messages")

    # ---- reloads ----

    def write(self, text, part):
        (self.folder / "part.lua").write_text(part, encoding="utf-8")
        Path(self.server.script).write_text(text, encoding="utf-8")

    def hup(self):
        start = self.server.mark()
        self.server.send_signal(signal.SIGHUP)
        return start

    def reload(self, variant, wait):
        """Good code. With `wait` until all have moved that can; without it the next reload may overtake that."""
        self.write(script(self.folder), PART.format(variant))
        start = self.hup()
        generation = self.until_logged(f"{SERVES}|{REFUSED}", start).group(1)
        assert generation, self.server.log
        if wait:
            self.until_logged(rf"generation {generation}: \d+ connections moved to it", start)
        return int(generation)

    def reload_broken(self, kind, variant):
        """What generation serves in the end."""
        text, part = script(self.folder), PART.format(variant)
        if kind == "raises for all":
            text = script(self.folder, "if ws.migrated then error('does not want it') end")
        elif kind == "module with a fault":
            part = "return +"
        else:
            text += BROKEN[kind] or ""
        self.write(text, part)
        if kind == "no file":
            Path(self.server.script).unlink()
        start = self.hup()
        if kind != "raises for all":
            assert self.until_logged(f"{SERVES}|{REFUSED}", start).group(0) == REFUSED, kind
            return 0
        return int(self.until_logged(rf"(?s){SERVES}.*{BACK}.*{SERVES}", start).group(2))

    # ---- the end ----

    def calm_down(self, generation):
        """Lets all that is under way arrive, and everybody move to the newest code."""
        self.busy = False
        self.until(lambda: all(peer.is_idle() for peer in self.peers), "answers are missing")
        self.until(lambda: all(self.due(n) == self.delivered[n] for n in self.published), "publications are missing")
        self.until(lambda: all(peer.generation == generation for peer in self.peers), "not all have moved")

    def count(self):
        for peer in self.peers:
            peer.out += masked(TEXT, b"?", True, 1)
        self.until(lambda: all(peer.counts for peer in self.peers), "counts are missing")

    def leave(self):
        for peer in self.peers:
            peer.leaving = True
        self.until(lambda: not self.peers, "closing takes too long")
        self.selector.close()

    def total(self, what):
        return sum(what(peer) for peer in self.peers + self.gone)


def totals(server):
    with server.raw() as client:
        return json.loads(client.request("GET /totals HTTP/1.1\nHost: x\n\n").body)


@pytest.fixture
def fleet(serve, tmp_path):
    (tmp_path / "part.lua").write_text(PART.format(0), encoding="utf-8")
    server = serve(script(tmp_path), workers=2, load_budget=1, vm_memory="32m")
    return Fleet(server, tmp_path)


def go_through_reloads(fleet):
    """A third of them broken. Returns the newest generation, and how many were refused and how many rolled back."""
    newest, outcomes, visitors = 1, collections.Counter(), []
    for i in range(RELOADS):
        if i % 3 == 2:
            kind = list(BROKEN)[i // 3 % len(BROKEN)]
            outcomes["back" if kind == "raises for all" else "refused"] += 1
            newest = fleet.reload_broken(kind, i + 1) or newest
        else:
            outcomes["good"] += 1
            newest = fleet.reload(i + 1, wait=i % 2 == 0)
        if i % 4 == 0:
            visitors.append(fleet.add("quiet-late"))
        if len(visitors) > 3:
            visitors.pop(0).leaving = True
        fleet.until_received(BETWEEN)
    return newest, outcomes


def test_nothing_is_lost_doubled_or_reordered_through_reloads(fleet):
    server = fleet.server
    newest, outcomes = go_through_reloads(fleet)
    assert newest == 1 + outcomes["good"] + 2 * outcomes["back"]
    fleet.calm_down(newest)
    everybody = len(fleet.peers) + len(fleet.gone)
    sent = fleet.total(lambda peer: peer.sent["text"] + peer.sent["binary"])
    assert fleet.total(lambda peer: peer.answers) == sent
    fleet.count()
    for peer in fleet.peers:
        assert peer.counts == {**peer.sent, "moves": peer.moves, "of": {"id": str(peer.number)},
                               "big": 20000 if peer.role == "quiet" else 0}, peer
        assert peer.role != "quiet" or peer.moves > 0
    metrics = server.metrics()
    assert metrics["tidewire_generation"] == newest
    assert metrics['tidewire_reloads_total{outcome="ok"}'] - fleet.built_at_start == newest - 1
    assert metrics['tidewire_reloads_total{outcome="refused"}'] == outcomes["refused"]
    assert metrics['tidewire_reloads_total{outcome="rolled_back"}'] == outcomes["back"]
    assert metrics['tidewire_migrations_total{outcome="moved"}'] == fleet.total(lambda peer: peer.moves)
    assert metrics["tidewire_messages_received_total"] == sent + len(fleet.peers)
    assert metrics["tidewire_websockets"] == len(fleet.peers)
    assert metrics["tidewire_tasks"] == 0
    fleet.leave()
    server.wait_metric("tidewire_websockets", 0)
    told = totals(server)
    assert told["closed 1000"] == everybody and told["counted"] == sent
    assert told["done"] == fleet.total(lambda peer: peer.done) and "undone" not in told
    wait_retired(server)
    assert totals(server)["started"] <= 2 * newest  # a worker that is late passes over a generation


def test_the_few_that_fail_to_move_are_closed_and_nobody_else(fleet):
    """Under rollback_share (0.1): the code is accepted without them."""
    few = [fleet.add("quiet-late"), fleet.add("quiet-late"), fleet.add("quiet")]
    ids = ", ".join(f'["{peer.number}"] = true' for peer in few)
    fleet.until_received(BETWEEN)
    for peer in few:
        peer.may_be_cut = True
    fleet.write(script(fleet.folder, f"if ws.migrated and ({{{ids}}})[ws.params.id] then error('not this one') end"),
                PART.format(1))
    start = fleet.hup()
    fleet.until_logged(r"generation 2: \d+ connections moved to it; \d+ failed to and are closed", start)
    fleet.until(lambda: all(peer.left for peer in few), "they are not closed")
    assert [(peer.generation, peer.close_code) for peer in few] == [(1, 1011)] * 3
    fleet.until_received(BETWEEN)
    fleet.calm_down(2)
    metrics = fleet.server.metrics()
    fleet.leave()
    assert metrics['tidewire_migrations_total{outcome="failed"}'] == len(few)
    assert metrics['tidewire_migrations_total{outcome="moved"}'] == len(ROLES)
    assert metrics['tidewire_reloads_total{outcome="rolled_back"}'] == 0


# ---- memory ----

COUNTER = """
app.websocket("c", function(ws)
  ws.state.n = ws.state.n or 0
  ws.state.list = ws.state.list or {"a", "b", {c = 1.5}}
  ws:on_text(function(ws, text)
    ws.state.n = ws.state.n + 1
    ws:send(ws.state.n .. " " .. app.generation)
  end)
end)
app.on_start(function() app.shared.incr("started") end)
app.on_stop(function() app.shared.incr("stopped") end)
app.get("totals", function()
  return {started = app.shared.get("started"), stopped = app.shared.get("stopped")}
end)
"""


def resident(server):
    """Bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M).group(1)) * 1024


def wait_retired(server):
    """Until each of the two workers has one generation left."""
    deadline = time.monotonic() + PATIENCE
    while (told := totals(server))["started"] - told.get("stopped", 0) > 2:
        assert time.monotonic() < deadline, told


@not_under_tsan
def test_many_reloads_take_no_memory(serve, monkeypatch):
    # What was freed is not to be kept by AddressSanitizer.
    monkeypatch.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") +
                       ":quarantine_size_mb=0:thread_local_quarantine_size_kb=0")
    server = serve(COUNTER, workers=2)
    clients = [server.raw("/c") for _ in range(MEMORY_CONNECTIONS)]
    sizes = []
    for generation in range(2, MEMORY_RELOADS + 2):
        assert server.reload()
        server.wait_metric('tidewire_migrations_total{outcome="moved"}', (generation - 1) * len(clients))
        for client in clients[generation % 2::2]:
            client.send_frame(TEXT, "x")
        for client in clients[generation % 2::2]:
            assert client.text().endswith(f" {generation}")
        wait_retired(server)
        sizes.append(resident(server))
    assert max(sizes[-10:]) < max(sizes[:10]) * 1.05 + MIB / 2, [size // 1024 for size in sizes[9::10]]
    for client in clients:
        client.close()
