# SPDX-License-Identifier: MIT
"""The other end of Tidewire's WebSockets: it sends exactly the bytes it is told to, and takes nothing that RFC 6455 or
RFC 7692 forbids. It is the client of a Tidewire that serves, and the server of one that connects."""
import base64
import errno
import functools
import hashlib
import http.client
import json
import os
import random
import select
import socket
import struct
import time
from typing import NamedTuple

from deflate import Codec

PATIENCE = float(os.environ.get("TIDEWIRE_TEST_PATIENCE", "60"))  # seconds before a test gives up

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
CONTROL = (CLOSE, PING, PONG)
RSV1 = 4  # of the three reserved bits as one number

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

DEFAULT = object()
dice = random.Random(6455)


def accept_of(key):
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


def xor(data, key):
    """Masks or unmasks (5.3)."""
    n = len(data)
    stream = (key * (n // 4 + 1))[:n]
    return (int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")).to_bytes(n, "little")


def encode(opcode, payload=b"", fin=True, rsv=0, mask=None, length=None, size=None):
    """A frame's bytes. `length` lies about the payload's; `size` picks the form of the length: 7, 16 or 64 bits."""
    if isinstance(payload, str):
        payload = payload.encode()
    n = len(payload) if length is None else length
    size = size or (7 if n < 126 else 16 if n < 65536 else 64)
    bit = 0 if mask is None else 0x80
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size == 7:
        head += bytes([bit | n])
    elif size == 16:
        head += bytes([bit | 126]) + struct.pack(">H", n)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", n)
    return head + payload if mask is None else head + mask + xor(payload, mask)


def close_payload(code, reason=b""):
    return struct.pack(">H", code) + reason


class Frame(NamedTuple):
    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0


class Head:
    """The head of a request or a response."""

    def __init__(self, data):
        self.start, *lines = data[:-4].decode("latin-1").split("\r\n")
        self.fields = [(name.lower(), value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]

    def all(self, name):
        return [value for field, value in self.fields if field == name]

    def one(self, name):
        value, = self.all(name)
        return value

    def joined(self, name):
        """A header that is a list; None without one."""
        return ", ".join(self.all(name)) or None

    @property
    def status(self):
        version, status, *_ = self.start.split(" ")
        assert version == "HTTP/1.1", self.start
        return int(status)


def leave_no_trace(sock):
    """A reset when it is closed: the long form makes more connections than there are ports to wait in TIME_WAIT."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Peer:
    """One connection. `role` is what Tidewire is in it: "server" or "client"."""

    def __init__(self, sock, role, server):
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        leave_no_trace(sock)
        self.sock, self.role, self.server = sock, role, server
        self.buffer = bytearray()
        self.codec = None  # once permessage-deflate is agreed to
        self.agreed = {}  # its parameters
        self.masks = []  # the keys that Tidewire has used
        self.compressed = None  # the payload of the last message as it came, if it came compressed

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    # ---- bytes ----

    def send(self, data, chop=None):
        """Sends in writes of `chop` octets; a Tidewire that has failed the connection need not take them all."""
        step = chop or max(len(data), 1)
        try:
            for at in range(0, len(data), step):
                self.sock.sendall(data[at:at + step])
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise

    def send_apart(self, pieces):
        """Sends each piece only when Tidewire has read the one before, or has answered something. All that was sent
        earlier must have been answered."""
        name = "tidewire_received_bytes_total"
        reached = self.server.metrics()[name]
        deadline = time.monotonic() + PATIENCE
        for piece in pieces:
            reached += len(piece)
            self.send(piece)
            while self.server.metrics()[name] < reached and not self.readable():
                assert time.monotonic() < deadline

    def send_in(self, how, *frames):
        """Sends frames "at once", "frame by frame" or "octet by octet", the two last apart."""
        if how == "at once":
            self.send(b"".join(frames))
        elif how == "frame by frame":
            self.send_apart(frames)
        else:
            data = b"".join(frames)
            self.send_apart(data[i:i + 1] for i in range(len(data)))

    def readable(self):
        return bool(self.buffer or select.select([self.sock], [], [], 0)[0])

    def _fill(self):
        piece = self.sock.recv(1 << 18)
        self.buffer += piece
        return bool(piece)

    def take(self, n):
        while len(self.buffer) < n:
            assert self._fill(), f"the connection ended after {bytes(self.buffer[:200])!r}"
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    def until(self, mark):
        while (at := self.buffer.find(mark)) < 0:
            assert self._fill(), f"the connection ended after {bytes(self.buffer[:200])!r}"
        return self.take(at + len(mark))

    def expect_end(self):
        """Nothing but the end of the TCP connection follows. The server closes first (7.1.1)."""
        assert not self.buffer, f"instead of the end: {bytes(self.buffer[:200])!r}"
        if self.role == "client":
            self.sock.shutdown(socket.SHUT_WR)
        assert not self._fill(), f"instead of the end: {bytes(self.buffer[:200])!r}"

    def head(self):
        return Head(self.until(b"\r\n\r\n"))

    # ---- frames ----

    def make(self, opcode, payload=b"", fin=True, rsv=0, mask=DEFAULT, **lies):
        """A frame's bytes, masked as this end has to unless `mask` says otherwise (a key, or None)."""
        if mask is DEFAULT:
            mask = dice.randbytes(4) if self.role == "server" else None
        return encode(opcode, payload, fin, rsv, mask, **lies)

    def send_frame(self, *args, **kwargs):
        self.send(self.make(*args, **kwargs))

    def frame(self):
        """The next frame, which must be one that Tidewire may send."""
        first, second = self.take(2)
        fin, rsv, opcode = bool(first & 0x80), first >> 4 & 7, first & 15
        assert opcode in (CONT, TEXT, BINARY, *CONTROL), f"opcode {opcode}"
        assert rsv == 0 or (rsv == RSV1 and self.codec and opcode in (TEXT, BINARY)), f"reserved bits {rsv}"
        assert bool(second & 0x80) == (self.role == "client"), "masked" if second & 0x80 else "not masked"
        length = second & 127
        if length == 126:
            length, = struct.unpack(">H", self.take(2))
            assert length > 125, "not the shortest form of the length"
        elif length == 127:
            length, = struct.unpack(">Q", self.take(8))
            assert 65535 < length < 1 << 63, "not the shortest form of the length"
        assert opcode not in CONTROL or fin and length <= 125, f"{opcode} of {length} bytes, fin {fin}"
        if self.role == "server":
            return Frame(opcode, self.take(length), fin, rsv)
        self.masks.append(self.take(4))
        return Frame(opcode, xor(self.take(length), self.masks[-1]), fin, rsv)

    def message(self):
        """The next message, whole, as (opcode, data). No control frame may come before it."""
        opcode, data, fin, rsv = self.frame()
        assert opcode in (TEXT, BINARY), (opcode, data)
        while not fin:
            more, piece, fin, _ = self.frame()
            assert more == CONT, (more, piece)
            data += piece
        self.compressed = data if rsv else None
        if rsv:
            data = self.codec.unpack(data)
        if opcode == TEXT:
            data.decode()
        return opcode, data

    # ---- conversations ----

    def pack(self, opcode, data):
        """A message in one frame, compressed where that is agreed to."""
        data = data.encode() if isinstance(data, str) else data
        return self.make(opcode, self.codec.pack(data), rsv=RSV1) if self.codec else self.make(opcode, data)

    def echo(self, opcode, data):
        """Sends a message and gets it back."""
        data = data.encode() if isinstance(data, str) else data
        self.send(self.pack(opcode, data))
        assert self.message() == (opcode, data)

    def finish(self):
        """Ends a conversation in which all was well, and nothing is left."""
        self.send_frame(CLOSE, close_payload(1000))
        self.expect_close(1000)

    def expect_close(self, code):
        """A Close with exactly this code (None: none), then the end of the connection."""
        frame = self.frame()
        assert frame.opcode == CLOSE, frame
        assert len(frame.payload) != 1
        got = struct.unpack(">H", frame.payload[:2])[0] if frame.payload else None
        assert got == code, f"close code {got} ({frame.payload[2:]!r}), not {code}"
        frame.payload[2:].decode()
        self.expect_end()

    def expect_failure(self, code, *frames, how="at once"):
        """A good message is answered, then these frames make Tidewire fail the connection; what follows them is not
        looked at any more (7.1.7)."""
        good = self.pack(TEXT, "good")
        if how == "at once":
            self.send(good + b"".join(frames))
            assert self.message() == (TEXT, b"good")
        else:
            self.send(good)
            assert self.message() == (TEXT, b"good")
            self.send_in(how, *frames)
        self.expect_close(code)


# ---- Tidewire serves ----

def request(path="/echo", **headers):
    """An opening handshake (4.1). Headers are given as name_with_underscores; a list repeats, None leaves out."""
    fields = {"host": "localhost", "upgrade": "websocket", "connection": "Upgrade", "sec_websocket_key": KEY,
              "sec_websocket_version": "13", **headers}
    lines = [f"GET {path} HTTP/1.1"]
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            lines.append(f"{name.replace('_', '-')}: {one}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reach(server):
    """A connection to a Tidewire that serves, still without a handshake."""
    return Peer(socket.create_connection(("127.0.0.1", server.port), PATIENCE), "server", server)


def parameters(extension):
    """"permessage-deflate; a; b=10" as {"a": True, "b": 10}."""
    name, *rest = (piece.strip() for piece in extension.split(";"))
    assert name == "permessage-deflate", extension
    found = {}
    for piece in rest:
        key, _, value = piece.partition("=")
        assert key not in found, f"{key} twice"
        found[key] = int(value.strip('"')) if value else True
    return found


def codec_of_a_client(offer, answer):
    """Its own hints bind a client, whatever the answer says (RFC 7692, 7.1.1.2, 7.1.2.2)."""
    bits = [one["client_max_window_bits"] for one in (offer, answer)
            if one.get("client_max_window_bits", True) is not True]
    return Codec(send_bits=min([15, *bits]), receive_bits=answer.get("server_max_window_bits", 15),
                 send_takeover="client_no_context_takeover" not in {**offer, **answer},
                 receive_takeover="server_no_context_takeover" not in answer)


def codec_of_a_server(answer):
    return Codec(send_bits=answer.get("server_max_window_bits", 15),
                 receive_bits=answer.get("client_max_window_bits", 15),
                 send_takeover="server_no_context_takeover" not in answer,
                 receive_takeover="client_no_context_takeover" not in answer)


def open_to_server(server, path="/echo", offer=None, **headers):
    """A WebSocket to a Tidewire that serves. With an `offer` of permessage-deflate it must be taken."""
    peer = reach(server)
    peer.send(request(path, sec_websocket_extensions=offer, **headers))
    head = peer.head()
    assert head.status == 101, head.start
    assert head.one("sec-websocket-accept") == accept_of(KEY)
    agreed = head.joined("sec-websocket-extensions")
    assert bool(agreed) == bool(offer), agreed
    if offer:
        peer.agreed = parameters(agreed)
        peer.codec = codec_of_a_client(parameters(offer), peer.agreed)
    return peer


# ---- Tidewire connects ----

@functools.cache
def the_listener():
    """One for all: a port of their own for each connection would be in TIME_WAIT after it."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(PATIENCE)
    return listener


class Call:
    """A Tidewire that has been told to connect to us; its request has been read, and waits for an answer."""

    def __init__(self, server, path="/", **opts):
        listener = the_listener()
        self.port = listener.getsockname()[1]
        self.control = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        self.control.request("POST", "/connect", json.dumps(
            {"url": f"ws://127.0.0.1:{self.port}{path}", "opts": opts}))
        leave_no_trace(self.control.sock)
        ready, _, _ = select.select([listener, self.control.sock], [], [], PATIENCE)
        assert listener in ready, f"it did not connect: {ready and self.outcome()}"
        self.peer = Peer(listener.accept()[0], "client", server)
        self.request = self.peer.head()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.peer.sock.close()
        self.control.close()

    def response(self, start="HTTP/1.1 101 Switching Protocols", **headers):
        """The answer to the handshake (4.2.2) as bytes; headers as in request()."""
        fields = {"upgrade": "websocket", "connection": "Upgrade",
                  "sec_websocket_accept": accept_of(self.request.one("sec-websocket-key")), **headers}
        lines = [start]
        for name, value in fields.items():
            for one in value if isinstance(value, list) else [] if value is None else [value]:
                lines.append(f"{name.replace('_', '-')}: {one}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def outcome(self):
        """What app.connect has returned: {"open": true, "protocol": ...} or {"open": false, "message": ...}."""
        answer = self.control.getresponse()
        body = answer.read().decode()
        assert answer.status == 200, body
        self.control.close()
        return json.loads(body)

    def expect_open(self):
        outcome = self.outcome()
        assert outcome["open"] is True, outcome
        return outcome

    def expect_refusal(self):
        """app.connect returned nil and a message; not a byte was sent, and the connection has ended, with a reset where
        Tidewire had no use for the rest of the answer."""
        outcome = self.outcome()
        assert outcome["open"] is False and outcome["message"], outcome
        try:
            self.peer.expect_end()
        except ConnectionResetError:
            pass
        return outcome["message"]


def open_to_client(server, answer=None, path="/", **opts):
    """A WebSocket from a Tidewire that connects. With an `answer` permessage-deflate is agreed to."""
    call = Call(server, path, **opts, **({"compression": True} if answer else {}))
    if answer:
        call.peer.agreed = parameters(answer)
        call.peer.codec = codec_of_a_server(call.peer.agreed)
    call.peer.send(call.response(sec_websocket_extensions=answer))
    call.expect_open()
    return call.peer
