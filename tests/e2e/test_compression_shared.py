# SPDX-License-Identifier: MIT
"""permessage-deflate where several things meet: what is published is compressed once for all and sent between what each
connection is sent by itself; slow clients lose messages; the code changes; handlers wait; memory comes to its limit."""
import json
import random
import socket

import pytest

from conftest import BINARY_OP, CONT, PATIENCE, PING, PONG, TEXT, frame
from test_compression import ALL, ECHO, Peer, noise, prose

MOVED = 'tidewire_migrations_total{outcome="moved"}'
DROPPED = 'tidewire_messages_dropped_total{reason="slow"}'
BYTES = "tidewire_compression_bytes"
REDUCED = "tidewire_compression_reduced_total"
REFUSED = "tidewire_reassembly_refused_total"
COMPRESSED = "tidewire_websockets_compressed"

# What zlib takes, as the documentation has it.
INFLATER = (1 << 15) + 7168
TAKEOVER_12 = (1 << 14) + (1 << 14) + 6144 + (1 << 12) + 7168

# ---- published messages ----

ROOMS = """
local function room(name, options)
  app.websocket("room/" .. name, options, function(ws)
    ws:subscribe("room")
    ws:on_text(function(_, text) ws:send(text) end)
    ws:send(ws.id .. " " .. app.worker)
  end)
end
room("all", {compression_min = 0})
room("some", {compression_min = 300})
room("long", {compression_min = 5000})
room("each", {compression_min = 0, compression_takeover = false})
room("off", {compression = false})
app.websocket("control", {compression = false, max_message = "64m"}, function(ws)
  ws:on_text(function(_, text)
    for _, step in ipairs(json.decode(text)) do
      if step[1] == 0 then assert(app.publish("room", step[2])) else assert(app.send(step[1], step[2])) end
    end
    ws:send("done")
  end)
end)
"""

MIX = [("all", "permessage-deflate"), ("all", "permessage-deflate; client_max_window_bits"), ("all", None),
       ("some", "permessage-deflate"), ("long", "permessage-deflate"), ("each", "permessage-deflate"),
       ("off", "permessage-deflate"), ("all", "permessage-deflate; server_no_context_takeover"),
       ("each", "permessage-deflate; server_max_window_bits=9"),
       *[(room, f"permessage-deflate; server_max_window_bits={bits}") for bits in range(9, 16)
         for room in ("all", "some")]]


class Receiver(Peer):
    """A subscriber, and what it is to get."""

    def __init__(self, server, room, offer):
        super().__init__(server, "/room/" + room, offer)
        self.id, self.worker = map(int, self.text().split())
        self.want = []

    def check(self):
        for text in self.want:
            assert self.text() == text
        self.want = []


def take_turns(control, receivers, rng, steps):
    """Published messages and own ones in any order, of texts that repeat what came before."""
    texts = [prose(n, n) for n in (1, 20, 130, 290, 301, 900, 4990, 5010, 20000)]
    program = []
    for _ in range(steps):
        text = f"{len(program)}:{rng.choice(texts)}"
        if rng.random() < 0.3:
            program.append((0, text))
            for receiver in receivers:
                receiver.want.append(text)
        else:
            receiver = rng.choice(receivers)
            program.append((receiver.id, text))
            receiver.want.append(text)
    control.send_frame(TEXT, json.dumps(program))
    assert control.text() == "done"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("takeover", ["true", "false"])
def test_every_subscriber_reads_what_was_sent(serve, workers, takeover):
    """The compressed message that all get is not in the window of anybody's own stream."""
    server = serve(ROOMS, workers=workers, compression="true", compression_window=15, compression_takeover=takeover)
    receivers = [Receiver(server, room, offer) for room, offer in MIX]
    assert len({receiver.worker for receiver in receivers}) == workers
    rng = random.Random(7)
    with server.raw("/control") as control:
        for _ in range(3):
            take_turns(control, receivers, rng, 120)
            for receiver in receivers:
                receiver.check()
                receiver.plain("own")
                assert receiver.text() == "own"
    for receiver in receivers:
        receiver.raw.close()


def test_own_messages_refer_to_each_other_until_something_is_published(serve):
    server = serve(ROOMS, compression="true")
    text = prose(1000)
    with Receiver(server, "all", "permessage-deflate") as receiver, server.raw("/control") as control:
        sizes = []
        for to in (receiver.id, receiver.id, 0, 0, receiver.id, receiver.id):
            control.send_frame(TEXT, json.dumps([(to, text)]))
            assert control.text() == "done"
            assert receiver.text() == text
            sizes.append(receiver.wire)
        first, second, shared, shared_again, anew, last = sizes
        assert second < first / 4 and last < first / 4
        assert shared == shared_again and shared > first / 2
        assert anew == first


def test_own_messages_go_on_after_what_was_published_uncompressed(serve):
    """It leaves both sides' windows as they are."""
    server = serve(ROOMS, compression="true")
    text = prose(1000)
    with Receiver(server, "some", "permessage-deflate") as receiver, server.raw("/control") as control:
        control.send_frame(TEXT, json.dumps([(receiver.id, text), (0, "short"), (receiver.id, text)]))
        assert receiver.text() == text
        first = receiver.wire
        assert receiver.frame() == (TEXT, b"short", False)
        assert receiver.text() == text
        assert receiver.wire < first / 4


def test_published_binary_messages(serve):
    server = serve("""app.websocket("x", function(ws)
      ws:subscribe("t")
      ws:on_binary(function(_, bytes) ws:send_binary(bytes) app.publish("t", bytes, {binary = true}) end)
    end)""", **ALL)
    with Peer(server, "/x") as peer:
        for data in (b"x" * 1000, noise(1000), b"x" * 1000):
            peer.send(data, BINARY_OP)
            for _ in range(2):
                assert peer.frame() == (BINARY_OP, data, data[:2] == b"xx")


# ---- slow clients ----

# Numbered messages, a third of them published, of 16 texts that do not compress to nothing.
FLOOD = """
local texts = {}
app.websocket("slow", {on_slow = "drop", send_limit = "64k"}, function(ws)
  ws:subscribe("room")
  local n = 0
  ws:on_text(function(_, text)
    local count = tonumber(text)
    if not count then texts[#texts + 1] = text return end
    for _ = 1, count do
      n = n + 1
      local message = n .. ":" .. texts[n % #texts + 1]
      if n % 3 == 0 then app.publish("room", message) else ws:send(message) end
    end
  end)
end)
"""


def slow_peer(server):
    """One whose own kernel takes little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", server.port))
    return Peer(server, "/slow", raw=server.wrap(sock))


def test_what_arrives_after_dropped_messages_is_right(serve):
    server = serve(FLOOD, compression_window=15, **ALL)
    texts = [noise(1000, i).hex() for i in range(16)]
    with slow_peer(server) as peer:
        for text in texts:
            peer.send(text)
        last = 0
        for _ in range(3):
            before = server.metrics()[DROPPED]
            peer.raw.send(frame(TEXT, peer.pack("8000"), rsv=4) + frame(PING, b"that was all"))
            server.wait_metric(DROPPED, lambda n, before=before: n > before)
            missing = 0
            while (got := peer.frame())[0] == TEXT:
                number, text = got[1].decode().split(":")
                assert int(number) > last and text == texts[int(number) % 16]
                missing += int(number) - last - 1
                last = int(number)
            assert got == (PONG, b"that was all", False)
            assert missing > 0
            peer.send("20")
            numbers = [int(peer.text().split(":")[0]) for _ in range(20)]
            assert numbers == list(range(numbers[0], numbers[0] + 20))
            last = numbers[-1]


# ---- reloads ----

def answers(word, options=""):
    return (f'app.websocket("echo", {{{options}}}, function(ws) '
            f'ws:on_text(function(_, text) ws:send("{word} " .. text) end) end)')


def test_contexts_survive_a_reload(serve):
    server = serve(answers("old"), **ALL)
    text = prose(2000)
    with Peer(server) as peer:
        assert peer.ask(text) == "old " + text
        first = peer.wire
        for word in ("new", "newer"):
            assert server.reload(answers(word))
            payload = peer.pack(text)
            assert len(payload) < first / 4  # it refers to what the old code was told
            peer.raw.send_frame(TEXT, payload, rsv=4)
            assert peer.text() == f"{word} {text}"
            assert peer.wire < first / 4  # and so does the answer


@pytest.mark.parametrize("cut", ["frame", "fragment"])
@pytest.mark.parametrize("takeover", ["true", "false"])
def test_a_partial_message_survives_a_reload(serve, cut, takeover):
    server = serve(answers("old"), compression_takeover=takeover, **ALL)
    text = prose(6000)
    with Peer(server) as peer:
        peer.ask(text[:500])
        payload = peer.pack(text)
        middle = len(payload) // 2
        if cut == "frame":
            whole = frame(TEXT, payload, rsv=4)
            pieces = whole[:middle], whole[middle:]
        else:
            pieces = frame(TEXT, payload[:middle], rsv=4, fin=False), frame(CONT, payload[middle:])
        server.send_apart(peer.raw, pieces[0])
        assert server.reload(answers("new"))
        server.wait_metric(MOVED, 1)
        peer.raw.send(pieces[1])
        assert peer.text() == "new " + text
        assert peer.ask(text) == "new " + text


def test_a_reload_lowers_max_message(serve):
    server = serve(answers("old", "max_message = 10000"), **ALL)
    with Peer(server) as whole, Peer(server) as part, Peer(server) as less:
        for peer, n in ((part, 5000), (less, 900)):
            server.send_apart(peer.raw, frame(TEXT, peer.pack("x" * n) + b"\0\0\xff\xff", rsv=4, fin=False))
        whole.ask("x" * 5000)
        assert server.reload(answers("new", "max_message = 1000"))
        server.wait_metric(MOVED, 3)
        part.raw.send_frame(CONT, b"\0")
        assert part.expect_close(1009) == "message too big"
        less.raw.send_frame(CONT, b"\0")
        assert less.text() == "new " + "x" * 900
        assert whole.ask("x" * 1000) == "new " + "x" * 1000
        whole.send("x" * 1001)
        whole.expect_close(1009)
    server.wait_metric("tidewire_websockets", 0)
    assert server.metrics()["tidewire_reassembly_bytes"] == 0


def test_a_reload_changes_what_is_compressed_but_not_what_was_agreed(serve):
    server = serve(answers("old", "compression_min = 10"), **ALL)
    with Peer(server) as peer:
        peer.send("x" * 100)
        assert peer.frame()[2]
        assert server.reload(answers("new", "compression_min = 1000"))
        peer.send("x" * 100)
        assert peer.frame() == (TEXT, b"new " + b"x" * 100, False)
        assert server.reload(answers("none", "compression = false"))
        assert peer.ask("x" * 3000) == "none " + "x" * 3000
        assert server.metrics()[COMPRESSED] == 1
        with Peer(server) as late:
            assert late.terms is None


# ---- handlers that wait ----

GATE = """
local gate
app.websocket("echo", {read_ahead = 2000}, function(ws)
  gate = app.promise()
  ws:on_text(function(_, text)
    if text == "wait" then gate:await() end
    ws:send(text)
  end)
end)
app.post("open", function() gate:resolve() return "" end)
"""


@pytest.mark.parametrize("takeover", ["true", "false"])
def test_compressed_messages_wait_for_a_handler_and_for_read_ahead(serve, takeover):
    server = serve(GATE, compression_takeover=takeover, **ALL)
    texts = [prose(700, i % 4) for i in range(60)]
    with Peer(server) as peer:
        peer.send("wait")
        server.wait_metric("tidewire_tasks", 1)
        peer.raw.send_frame(PING, b"1")
        assert peer.frame() == (PONG, b"1", False)
        peer.raw.send(b"".join(frame(TEXT, peer.pack(text), rsv=4) for text in texts))
        server.wait_metric("tidewire_reassembly_bytes", lambda n: n >= 2000)
        with server.raw() as other:
            assert other.request("POST /open HTTP/1.1\nHost: x\nContent-Length: 0\n\n").status == 200
        assert [peer.text() for _ in range(61)] == ["wait", *texts]
        assert server.metrics()["tidewire_reassembly_bytes"] == 0
        peer.check_alive()


# ---- compression_limit ----

def open_until(server, reached, offer="permessage-deflate"):
    """New connections, up to the first for which reached(terms) is true."""
    peers = []
    while not peers or not reached(peers[-1].terms):
        assert len(peers) < 100
        peers.append(Peer(server, offer=offer))
    return peers


def has_none(terms):
    return terms is not None and {"server_no_context_takeover", "client_no_context_takeover"} <= terms.keys()


def begin_message(peer, text):
    """Half of it; returns the other half."""
    payload = peer.pack(text)
    peer.raw.send(frame(TEXT, payload[:20], rsv=4, fin=False) + frame(PING))
    assert peer.frame() == (PONG, b"", False)
    return frame(CONT, payload[20:])


def test_the_limit_takes_context_takeover_first_then_compression_and_gives_both_back(serve):
    limit = 1 << 20
    server = serve(ECHO, compression_limit="1m", **ALL)
    first = open_until(server, has_none, "permessage-deflate; client_max_window_bits")
    rich, shared = first[:-1], first[-1:]
    assert len(rich) == limit // 2 // TAKEOVER_12
    assert server.metrics()[REDUCED] == 1
    assert server.metrics()[BYTES] == len(rich) * TAKEOVER_12
    # inflaters that are lent take the rest
    room = (limit - len(rich) * TAKEOVER_12) // INFLATER
    text, rest = prose(3000), []
    for i in range(room):
        if i > 0:
            shared.append(Peer(server))
            assert has_none(shared[-1].terms)
        rest.append(begin_message(shared[-1], text))
    assert server.metrics()[BYTES] <= limit
    with Peer(server) as poor:
        assert poor.terms is None
        poor.plain("x" * 2000)
        assert poor.frame() == (TEXT, b"x" * 2000, False)
        assert server.metrics()[REDUCED] == room + 1
        for peer in rich:  # what was promised is kept
            assert peer.ask(text) == text
            assert peer.ask(text) == text
    for peer, half in zip(shared, rest):
        peer.raw.send(half)
        assert peer.text() == text
        assert peer.ask(text) == text
    for peer in (*rich, *shared):
        peer.raw.close()
    server.wait_metric(COMPRESSED, 0)
    server.wait_metric(BYTES, lambda n: n < limit // 2 - TAKEOVER_12)
    with Peer(server) as again:
        assert not has_none(again.terms)
        again.check_alive()


def test_a_message_for_which_there_is_no_inflater_is_1013(serve):
    server = serve(ECHO, compression_limit="1m", compression_takeover="false", **ALL)
    peers = [Peer(server) for _ in range((1 << 20) // INFLATER + 1)]
    text = prose(3000)
    with Peer(server) as whole:
        rest = [begin_message(peer, text) for peer in peers[:-1]]
        assert whole.ask(text) == text  # what needs one only for a moment always has one
    peers[-1].raw.send(frame(TEXT, peers[-1].pack(text)[:20], rsv=4, fin=False))
    assert peers[-1].expect_close(1013) == "too much is being received"
    assert server.metrics()[REFUSED] == 1
    for peer, half in zip(peers, rest):  # the others go on, and what one gives back the next may have
        peer.raw.send(half)
        assert peer.text() == text
        assert peer.ask(text) == text
        peer.raw.close()


def test_a_client_that_goes_within_a_message_gives_back_what_it_had(serve):
    server = serve(ECHO, compression_limit="1m", **ALL)
    with Peer(server, offer="permessage-deflate; server_no_context_takeover; client_no_context_takeover") as stays:
        for _ in range(60):
            with Peer(server) as peer:
                begin_message(peer, prose(3000))
            with Peer(server, offer="permessage-deflate; client_no_context_takeover") as peer:
                begin_message(peer, prose(3000))
        server.wait_metric(COMPRESSED, 1)
        assert server.metrics()["tidewire_frame_contexts"] == 0
        assert server.metrics()["tidewire_reassembly_bytes"] == 0
        assert server.metrics()[BYTES] < 1 << 19
        stays.check_alive()
