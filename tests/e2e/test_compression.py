# SPDX-License-Identifier: MIT
"""permessage-deflate (RFC 7692) on the wire, with plain zlib as the peer: what is negotiated, what is compressed, what
is refused, and that every message is what was sent, whatever came before it."""
import asyncio
import json
import os
import random
import subprocess
import zlib

import pytest
import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from conftest import BINARY_OP, CLOSE, CONT, PATIENCE, PING, PONG, TEXT, close_payload, frame, not_under_tsan
from test_clients import browser, page  # noqa: F401, pylint: disable=unused-import
from test_limits import measured, resident  # noqa: F401, pylint: disable=unused-import

TAIL = b"\0\0\xff\xff"
HELLO = bytes.fromhex("f248cdc9c90700")  # RFC 7692, 7.2.3.1
HELLO_AGAIN = bytes.fromhex("f200110000")  # 7.2.3.2: refers to the one before

ECHO = """
app.websocket("echo", function(ws)
  ws:on_text(function(_, text) ws:send(text) end)
  ws:on_binary(function(_, bytes) ws:send_binary(bytes) end)
end)
"""

ALL = {"compression": "true", "compression_min": 0}  # options: everything is compressed


def parameters(answer):
    """{"server_max_window_bits": 12, "client_no_context_takeover": None, ...}; None without an answer."""
    if answer is None:
        return None
    name, *rest = [part.strip() for part in answer.split(";")]
    assert name == "permessage-deflate" and "," not in answer
    pairs = [part.partition("=") for part in rest]
    return {key: int(value) if value else None for key, _, value in pairs}


class Peer:
    """A raw client whose compression is plain zlib, with exactly what the answer says."""

    def __init__(self, server, path="/echo", offer="permessage-deflate; client_max_window_bits", raw=None):
        self.raw = raw or server.raw()
        self.raw.handshake(path, sec_websocket_extensions=offer)
        answer = self.raw.response()
        assert answer.status == 101, answer.body
        self.terms = parameters(answer.headers.get("sec-websocket-extensions"))
        terms = self.terms or {}
        self.in_bits = terms.get("server_max_window_bits", 15)
        self.out_bits = terms.get("client_max_window_bits", 15)
        self.in_takeover = "server_no_context_takeover" not in terms
        self.out_takeover = "client_no_context_takeover" not in terms
        self.inflater = zlib.decompressobj(-self.in_bits)
        self.deflater = None
        self.wire = 0  # payload bytes of the last message from the server

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.raw.close()

    def pack(self, data):
        """A message's payload (7.2.1)."""
        data = data.encode() if isinstance(data, str) else data
        if self.deflater is None or not self.out_takeover:
            bits = max(9, self.out_bits)  # zlib writes for no smaller window
            self.deflater = zlib.compressobj(6, zlib.DEFLATED, -bits, 8)
        return (self.deflater.compress(data) + self.deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def send(self, data, opcode=TEXT):
        self.raw.send_frame(opcode, self.pack(data), rsv=4)

    def plain(self, data, opcode=TEXT):
        self.raw.send_frame(opcode, data)

    def _inflate(self, data):
        if not self.in_takeover:
            self.inflater = zlib.decompressobj(-self.in_bits)
        out, rest = [], data + TAIL
        while rest:  # little at a time, so that only the window is left of what came before
            out.append(self.inflater.decompress(rest, 256))
            rest = self.inflater.unconsumed_tail
        while more := self.inflater.decompress(b"", 256):
            out.append(more)
        return b"".join(out)

    def frame(self):
        """The next frame as (opcode, data, whether it was compressed)."""
        first = self.raw.take(1)[0]
        packed = bool(first & 0x40)
        self.raw.buffer = bytes([first & 0xBF]) + self.raw.buffer
        opcode, data = self.raw.frame()
        assert not packed or (self.terms is not None and opcode < 8)
        self.wire = len(data)
        return opcode, self._inflate(data) if packed else data, packed

    def text(self):
        opcode, data, _ = self.frame()
        assert opcode == TEXT, (opcode, data)
        return data.decode()

    def ask(self, data):
        """Sends it compressed and returns the answer's text."""
        self.send(data)
        return self.text()

    def check_alive(self):
        """In both directions, with references to earlier messages where these are allowed."""
        for word in ("still here, still here, still here", "and still here, and still here"):
            assert self.ask(word) == word

    def expect_close(self, code):
        return self.raw.expect_close(code)


def noise(n, seed=1):
    return random.Random(seed).randbytes(n)


def prose(n, seed=1):
    """Text that repeats itself, near and far."""
    rng = random.Random(seed)
    words = [f"word{rng.randrange(10 ** rng.randrange(1, 6))}" for _ in range(n // 12 + 1)]
    return " ".join(rng.choice(words) for _ in range(n // 4 + 1))[:n]


# ---- whether it is spoken ----

def test_off_by_default(serve):
    server = serve(ECHO)
    with Peer(server) as peer:
        assert peer.terms is None
        peer.plain("x" * 5000)
        assert peer.frame() == (TEXT, b"x" * 5000, False)
        assert server.metrics()["tidewire_websockets_compressed"] == 0
        peer.raw.send_frame(TEXT, HELLO, rsv=4)
        peer.expect_close(1002)


def test_without_an_offer_nothing_is_compressed(serve):
    with Peer(serve(ECHO, **ALL), offer=None) as peer:
        assert peer.terms is None
        peer.plain("x" * 5000)
        assert peer.frame() == (TEXT, b"x" * 5000, False)
        peer.raw.send_frame(TEXT, HELLO, rsv=4)
        peer.expect_close(1002)


@pytest.mark.parametrize("default", ["true", "false"])
def test_a_route_can_turn_it_on_and_off(serve, default):
    echo = "function(ws) ws:on_text(function(_, text) ws:send(text) end) end"
    server = serve(f"app.websocket('on', {{compression = true}}, {echo})"
                   f"app.websocket('off', {{compression = false}}, {echo})"
                   f"app.websocket('default', {echo})", compression=default, compression_min=0)
    for path, want in {"/on": True, "/off": False, "/default": default == "true"}.items():
        with Peer(server, path) as peer:
            assert (peer.terms is not None) == want
            peer.plain("x" * 100)
            assert peer.frame() == (TEXT, b"x" * 100, want)


def test_it_is_counted(serve):
    server = serve(ECHO, **ALL)
    with Peer(server), Peer(server) as second, Peer(server, offer=None):
        server.wait_metric("tidewire_websockets", 3)
        assert server.metrics()["tidewire_websockets_compressed"] == 2
        second.raw.send_frame(CLOSE, close_payload(1000))
        second.expect_close(1000)
        server.wait_metric("tidewire_websockets_compressed", 1)
    server.wait_metric("tidewire_websockets_compressed", 0)


@pytest.mark.parametrize("option", ["compression = 'maybe'", "compression = 2", "compression_takeover = 'x'",
                                    "compression_min = -1", "compression_min = true", "compression_level = 3",
                                    "compression_window = 9", "compression_limit = '1m'"])
def test_options_that_cannot_be(serve, option):
    server = serve(ECHO)
    assert not server.reload(f"app.websocket('x', {{{option}}}, function() end)")


# ---- what is compressed ----

def test_from_compression_min_on(serve):
    echo = "function(ws) ws:on_text(function(_, text) ws:send(text) end) end"
    server = serve(f"app.websocket('a', {echo}) app.websocket('b', {{compression_min = 20}}, {echo})",
                   compression="true", compression_min=100)
    for path, least in {"/a": 100, "/b": 20}.items():
        with Peer(server, path) as peer:
            for n in (least - 1, least, least + 1, 2, 5000):
                peer.plain("x" * n)
                assert peer.frame() == (TEXT, b"x" * n, n >= least)


def test_the_default_of_compression_min_is_1_kib(serve):
    with Peer(serve(ECHO, compression="true")) as peer:
        for n in (1023, 1024):
            peer.plain("x" * n)
            assert peer.frame() == (TEXT, b"x" * n, n == 1024)


def test_what_does_not_get_smaller_is_sent_as_it_is(serve):
    with Peer(serve(ECHO, **ALL)) as peer:
        for data, packed in ((noise(3000), False), (b"z" * 3000, True), (b"z", False), (noise(3000, 2), False),
                             (b"", False), (b"z" * 3000, True), (noise(2000) + b"z" * 2000, True)):
            peer.plain(data, BINARY_OP)
            assert peer.frame() == (BINARY_OP, data, packed)


def test_control_frames_are_never_compressed_6_1(serve):
    script = """app.websocket("x", function(ws)
      ws:on_text(function() ws:ping(("p"):rep(125)); ws:close(1000, ("r"):rep(120)) end)
    end)"""
    with Peer(serve(script, **ALL), "/x") as peer:
        peer.raw.send_frame(PING, b"q" * 125)
        assert peer.frame() == (PONG, b"q" * 125, False)
        peer.send("go")
        assert peer.frame() == (PING, b"p" * 125, False)
        assert peer.frame() == (CLOSE, close_payload(1000, b"r" * 120), False)


# ---- parameters ----

@pytest.mark.parametrize("takeover", ["true", "false"])
def test_compression_takeover(serve, takeover):
    server = serve(ECHO, compression_takeover=takeover, **ALL)
    with Peer(server) as peer:
        assert ("server_no_context_takeover" in peer.terms) == (takeover == "false")
        assert ("client_no_context_takeover" in peer.terms) == (takeover == "false")
        text, sizes = prose(800), []
        for _ in range(3):
            assert peer.ask(text) == text
            sizes.append(peer.wire)
        if takeover == "true":
            assert max(sizes[1:]) < sizes[0] / 4
        else:
            assert sizes[1] == sizes[0] == sizes[2]


def test_compression_takeover_of_a_route(serve):
    server = serve("app.websocket('x', {compression_takeover = false}, function() end)"
                   "app.websocket('y', function() end)", **ALL)
    with Peer(server, "/x") as x, Peer(server, "/y") as y:
        assert "server_no_context_takeover" in x.terms and "client_no_context_takeover" in x.terms
        assert "server_no_context_takeover" not in y.terms and "client_no_context_takeover" not in y.terms


@pytest.mark.parametrize("bits", range(9, 16))
def test_compression_window(serve, bits):
    with Peer(serve(ECHO, compression_window=bits, **ALL)) as peer:
        assert (peer.in_bits, peer.out_bits) == (bits, bits)
        for text in (prose(70000), prose(3000, 2), prose(70000)):
            assert peer.ask(text) == text


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("takeover", [True, False])
def test_what_the_client_asks_for(serve, bits, takeover):
    server = serve(ECHO, compression_window=15, **ALL)
    offer = f"permessage-deflate; server_max_window_bits={bits}; client_max_window_bits={bits}"
    if not takeover:
        offer += "; server_no_context_takeover; client_no_context_takeover"
    with Peer(server, offer=offer) as peer:
        assert peer.in_bits <= bits and peer.in_takeover == takeover
        for text in (prose(40000), "z" * 5000, prose(3000, 2), prose(40000)):
            if bits > 8:
                peer.send(text)
            else:
                peer.plain(text)
            assert peer.text() == text


def test_a_client_that_says_nothing_of_its_window_has_the_largest_7_1_2_2(serve):
    with Peer(serve(ECHO, compression_window=9, **ALL), offer="permessage-deflate") as peer:
        assert "client_max_window_bits" not in peer.terms and peer.in_bits == 9
        far = noise(20000).hex()
        assert len(peer.pack(far)) > 20000  # which the next one repeats from beyond 9 bits
    with Peer(serve(ECHO, compression_window=9, **ALL), offer="permessage-deflate") as peer:
        for text in (far[:30000], far[:30000]):
            assert peer.ask(text) == text


def test_an_offer_that_cannot_be_met_is_passed_over_5_1(serve):
    server = serve(ECHO, **ALL)
    with Peer(server, offer="permessage-deflate; unknown, permessage-deflate; server_max_window_bits=10") as peer:
        assert peer.in_bits == 10
        peer.check_alive()
    with Peer(server, offer="permessage-deflate; server_max_window_bits=16, x-webkit-deflate-frame") as peer:
        assert peer.terms is None


# ---- what arrives ----

def test_the_examples_of_7_2_3(serve):
    with Peer(serve(ECHO, **ALL)) as peer:
        for payload in (HELLO, HELLO_AGAIN, bytes.fromhex("000500faff48656c6c6f00"),
                        bytes.fromhex("f348cdc9c9070000"), bytes.fromhex("f248050000 00ffffcac9c90700"),
                        bytes.fromhex("000500faff48656c6c6f01"), HELLO_AGAIN):
            peer.raw.send_frame(TEXT, payload, rsv=4)
            assert peer.text() == "Hello"
        for payload in (b"\0", b"\2\0", b"\1", b"\3\0\0"):
            peer.raw.send_frame(TEXT, payload, rsv=4)
            assert peer.text() == ""


def test_plain_messages_between_compressed_ones(serve):
    with Peer(serve(ECHO, **ALL)) as peer:
        for i in range(20):
            text = prose(500, i % 3)
            (peer.plain if i % 3 == 1 else peer.send)(text)
            assert peer.text() == text


def test_fragments_with_control_frames_between(serve):  # RFC 7692, 6.1: RSV1 is on the first only
    with Peer(serve(ECHO, **ALL)) as peer:
        for text in (prose(3000), prose(3000), "short"):
            payload = peer.pack(text)
            cuts = [0, 1, 1, len(payload) // 2, len(payload) - 1, len(payload), len(payload)]
            for i, (start, end) in enumerate(zip(cuts, cuts[1:])):
                last = i == len(cuts) - 2
                peer.raw.send_frame(CONT if i else TEXT, payload[start:end], fin=last, rsv=0 if i else 4)
                if not last:
                    peer.raw.send_frame(PING, str(i))
                    assert peer.frame() == (PONG, str(i).encode(), False)
            assert peer.text() == text


def test_a_compressed_message_byte_by_byte(serve):
    server = serve(ECHO, **ALL)
    with Peer(server) as peer:
        for text in ("grüße, grüße, grüße", "noch mehr grüße"):
            data = frame(TEXT, peer.pack(text), rsv=4)
            server.send_apart(peer.raw, *(data[i:i + 1] for i in range(len(data))))
            assert peer.text() == text


def test_many_messages_in_one_packet(serve):
    with Peer(serve(ECHO, **ALL)) as peer:
        texts = [prose(10 + i * 7 % 300, i) for i in range(300)]
        peer.raw.send(b"".join(frame(TEXT, peer.pack(text), rsv=4) for text in texts))
        assert [peer.text() for _ in texts] == texts


@pytest.mark.parametrize("opcode, rsv, fin", [(PING, 4, True), (CLOSE, 4, True), (TEXT, 2, True), (TEXT, 1, True),
                                              (TEXT, 6, True), (TEXT, 5, False), (CONT, 4, True)])
def test_reserved_bits_that_may_not_be(serve, opcode, rsv, fin):  # RFC 7692, 6; RFC 6455, 5.2
    with Peer(serve(ECHO, **ALL)) as peer:
        if opcode == CONT:
            peer.raw.send_frame(TEXT, HELLO[:2], rsv=4, fin=False)
        peer.raw.send_frame(opcode, HELLO, rsv=rsv, fin=fin)
        peer.expect_close(1002)


BAD = {"kind": b"\6\0", "lengths": bytes.fromhex("000500fbff4865"), "cut": HELLO[:3], "empty": b"",
       "past": HELLO_AGAIN, "no tail": HELLO[:-1], "garbage": noise(300, 5)}


@pytest.mark.parametrize("how", ["whole", "fragments"])
@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_inflated_is_1007(serve, name, how):
    data = BAD[name]
    with Peer(serve(ECHO, **ALL)) as peer:
        if how == "whole":
            peer.raw.send_frame(BINARY_OP, data, rsv=4)
        else:
            peer.raw.send_frame(BINARY_OP, data[:2], rsv=4, fin=False)
            peer.raw.send_frame(CONT, data[2:])
        peer.expect_close(1007)


@pytest.mark.parametrize("how", ["whole", "fragments", "first"])
def test_text_that_is_not_utf8_once_inflated_is_1007(serve, how):
    server = serve(ECHO, **ALL)
    with Peer(server) as peer:
        payload = peer.pack(b"abc" * 1000 + (b"\xff" if how == "first" else b"\xc3"))
        if how == "whole":
            peer.raw.send_frame(TEXT, payload, rsv=4)
        else:
            peer.raw.send_frame(TEXT, payload + (b"\0\0\xff\xff" if how == "first" else b""), rsv=4, fin=False)
            if how == "fragments":  # at the first impossible byte there is no need for the end
                peer.raw.send_frame(CONT, b"")
        peer.expect_close(1007)


def test_a_character_may_be_cut_anywhere(serve):
    with Peer(serve(ECHO, **ALL)) as peer:
        text = "€uro " * 50
        data = text.encode()
        for cut in range(1, 12):
            packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            first = packer.compress(data[:cut]) + packer.flush(zlib.Z_SYNC_FLUSH)
            rest = packer.compress(data[cut:]) + packer.flush(zlib.Z_SYNC_FLUSH)
            peer.raw.send_frame(TEXT, first, rsv=4, fin=False)
            peer.raw.send_frame(CONT, rest[:-4])
            assert peer.text() == text
            peer.out_takeover = False


# ---- sizes ----

@pytest.mark.parametrize("how", ["whole", "fragments"])
def test_max_message_counts_what_is_inflated(serve, how):
    server = serve(ECHO, max_message=5000, **ALL)
    for n in (4999, 5000, 5001, 6000):
        with Peer(server) as peer:
            payload = peer.pack("x" * n)
            assert len(payload) < 100
            if how == "whole":
                peer.raw.send_frame(TEXT, payload, rsv=4)
            else:
                peer.raw.send_frame(TEXT, payload[:5], rsv=4, fin=False)
                peer.raw.send_frame(CONT, payload[5:])
            if n <= 5000:
                assert peer.text() == "x" * n
                peer.check_alive()
            else:
                assert peer.expect_close(1009) == "message too big"


def test_max_frame_counts_what_is_on_the_wire(serve):
    server = serve(ECHO, max_frame=200, **ALL)
    with Peer(server) as peer:
        assert peer.ask("x" * 5000) == "x" * 5000
        peer.send(noise(300), BINARY_OP)
        peer.expect_close(1009)


def test_a_stored_message_longer_on_the_wire_than_max_message(serve):
    with Peer(serve(ECHO, max_message=1000, **ALL)) as peer:
        data = noise(1000)
        payload = b"".join(b"\0\1\0\xfe\xff" + data[i:i + 1] for i in range(1000)) + b"\0"
        peer.raw.send_frame(BINARY_OP, payload, rsv=4)
        assert peer.frame() == (BINARY_OP, data, False)


def gibibyte():
    """About a MiB that inflates to a GiB of zeros: no more than 1032 to 1 can be had."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    mib = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return mib * 1024 + b"\0"


def empty_blocks(n):
    """Blocks with codes of their own, and nothing in them: n bytes or a little less of the dearest that makes nothing."""
    bits = []

    def put(value, count):
        bits.extend(value >> i & 1 for i in range(count))

    for _ in range(2):  # which are whole bytes together (RFC 1951, 3.2.7)
        for value, count in ((0, 1), (2, 2), (0, 5), (0, 5), (14, 4)):
            put(value, count)
        for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1):
            put(1 if symbol == 18 else 2 if symbol in (0, 1) else 0, 3)
        for value, count in ((0, 1), (127, 7), (0, 1), (107, 7), (3, 2), (1, 2), (0, 1)):
            put(value, count)
    block = bytes(sum(bits[i + k] << k for k in range(8)) for i in range(0, len(bits), 8))
    assert zlib.decompressobj(-15).decompress(block * 3) == b""
    return block * (n // len(block))


def test_a_compressed_message_that_makes_nothing_ends_too(serve):
    server = serve(ECHO, compression="true", max_message="10k")
    limit = 2 * 10240 + 65536
    for sizes in ([limit // 2], [limit // 2, limit // 2 + 1]):
        with Peer(server) as peer:
            for i, size in enumerate(sizes):
                piece = empty_blocks(limit)[:size]
                peer.raw.send(frame(CONT if i else TEXT, piece, rsv=0 if i else 4, fin=False) + frame(PING, b"x"))
                if sum(sizes[:i + 1]) <= limit:
                    assert peer.frame() == (PONG, b"x", False)
            if sum(sizes) > limit:
                assert peer.expect_close(1009) == "message too big"
    with Peer(server) as peer:  # no matter how long it says it will be
        peer.raw.send(frame(TEXT, b"", rsv=4, length=1 << 40, size=64))
        assert peer.expect_close(1009) == "message too big"


@not_under_tsan
@pytest.mark.parametrize("how", ["whole", "fragments"])
def test_a_bomb_is_cut_at_max_message_before_it_costs_memory(serve, measured, how):  # noqa: F811
    server = serve(ECHO, **ALL)
    with Peer(server) as peer:  # what one message of that size may cost
        big = "x" * (1 << 20)
        assert peer.ask(big) == big
    before = resident(server)
    bomb = gibibyte()
    pieces = [bomb] if how == "whole" else [bomb[i:i + 1000] for i in range(0, 10000, 1000)]
    for _ in range(5):
        with Peer(server) as peer:
            try:
                for i, piece in enumerate(pieces):
                    peer.raw.send_frame(CONT if i else BINARY_OP, piece, rsv=0 if i else 4, fin=how == "whole")
            except ConnectionError:
                pass  # it had enough
            opcode, payload = peer.raw.frame()
            assert (opcode, payload[:2], payload[2:]) == (CLOSE, close_payload(1009), b"message too big")
    server.wait_metric("tidewire_websockets", 0)
    assert resident(server) - before < 8 << 20
    assert server.metrics()["tidewire_reassembly_bytes"] == 0


def test_many_last_blocks_in_one_message(serve):
    with Peer(serve(ECHO, **ALL)) as peer:
        peer.raw.send_frame(TEXT, bytes.fromhex("f348cdc9c90700") * 100000 + b"\0", rsv=4)
        assert peer.text() == "Hello" * 100000
        peer.raw.send_frame(TEXT, b"\1\0\0\xff\xff" * 200000 + b"\0", rsv=4)
        assert peer.text() == ""


@pytest.mark.parametrize("takeover", ["true", "false"])
def test_messages_of_all_sizes_both_ways(serve, takeover):
    server = serve(ECHO, max_message="20m", send_limit="50m", compression_takeover=takeover, **ALL)
    with Peer(server) as peer:
        for n in (0, 1, 2, 125, 126, 65535, 65536, 131072, 1 << 20, 4000001, 300, 0, 5):
            for data in (prose(n).encode(), noise(n)):
                peer.send(data, BINARY_OP)
                assert peer.frame()[:2] == (BINARY_OP, data)


# ---- clients that people use ----

OFFERS = [{}, {"server_no_context_takeover": True, "client_no_context_takeover": True},
          {"server_max_window_bits": 9, "client_max_window_bits": 9}, {"client_max_window_bits": True},
          {"server_max_window_bits": 12, "client_no_context_takeover": True}]


@pytest.mark.parametrize("takeover", ["true", "false"])
@pytest.mark.parametrize("offer", OFFERS)
def test_python_websockets(serve, offer, takeover):
    server = serve(ECHO, compression_takeover=takeover, **ALL)

    async def talk():
        async with websockets.connect(server.url("/echo"), compression=None,
                                      extensions=[ClientPerMessageDeflateFactory(**offer)]) as ws:
            assert [extension.name for extension in ws.extensions] == ["permessage-deflate"]
            for i, n in enumerate((10, 5000, 0, 70000, 5000, 1, 200000)):
                data = prose(n, i % 2) if i % 3 else noise(n, i)
                await ws.send(data)
                assert await ws.recv() == data
    asyncio.run(asyncio.wait_for(talk(), PATIENCE))


NODE_CLIENT = """
const WebSocket = require('ws');
const ws = new WebSocket(process.argv[1], {perMessageDeflate: JSON.parse(process.argv[2])});
const sent = [];
for (let i = 0; i < 200; i++) sent.push(('message ' + i % 7 + ' ').repeat(1 + (i * 37) % 900));
let at = 0, wrong = 0;
ws.on('open', () => sent.forEach((text) => ws.send(text)));
ws.on('message', (data) => {
  if (String(data) !== sent[at]) wrong++;
  if (++at === sent.length) { console.log(ws.extensions, wrong, sent.join('').length); ws.close(1000); }
});
ws.on('close', (code) => console.log('closed ' + code));
ws.on('error', (e) => { console.log('error ' + e.message); process.exit(1); });
"""


@pytest.mark.parametrize("options", [{}, {"serverNoContextTakeover": True, "clientNoContextTakeover": True},
                                     {"serverMaxWindowBits": 10, "clientMaxWindowBits": 11}])
def test_node_ws(serve, options):
    server = serve(ECHO, **ALL)
    env = {**os.environ, "NODE_PATH": "/usr/share/nodejs"}
    client = subprocess.run(["node", "-e", NODE_CLIENT, server.url("/echo"), json.dumps({"threshold": 0, **options})],
                            env=env, text=True, capture_output=True, timeout=PATIENCE, check=False)
    lines = client.stdout.splitlines()
    assert len(lines) == 2 and lines[1] == "closed 1000", (client.stdout, client.stderr)
    extensions, wrong, total = lines[0].rsplit(" ", 2)
    assert extensions.startswith("permessage-deflate") and wrong == "0"
    metrics = server.metrics()
    assert metrics["tidewire_received_bytes_total"] < int(total) / 5
    assert metrics["tidewire_sent_bytes_total"] < int(total) / 5


BROWSER_CLIENT = """
const done = arguments[arguments.length - 1];
const ws = new WebSocket(arguments[0]);
const sent = [];
for (let i = 0; i < 100; i++) sent.push(('message ' + i % 7 + ' grüße ').repeat(1 + (i * 37) % 900));
let at = 0, wrong = 0;
ws.onopen = () => sent.forEach((text) => ws.send(text));
ws.onmessage = (event) => { if (event.data !== sent[at]) wrong++; if (++at === sent.length) ws.close(1000); };
ws.onclose = (event) => done({answers: at, wrong: wrong, code: event.code, extensions: ws.extensions,
                              total: sent.join('').length});
"""


@pytest.mark.parametrize("takeover", ["true", "false"])
def test_chromium(serve, browser, takeover):  # noqa: F811
    server = serve(ECHO, origins="*", compression_takeover=takeover, **ALL)
    ended = browser.execute_async_script(BROWSER_CLIENT, server.url("/echo"))
    assert (ended["answers"], ended["wrong"], ended["code"]) == (100, 0, 1000)
    terms = parameters(ended["extensions"])
    assert ("server_no_context_takeover" in terms) == (takeover == "false")
    metrics = server.metrics()
    assert metrics["tidewire_received_bytes_total"] < ended["total"] / 5
    assert metrics["tidewire_sent_bytes_total"] < ended["total"] / 5
