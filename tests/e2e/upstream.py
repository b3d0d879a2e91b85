# SPDX-License-Identifier: MIT
"""The other end of app.connect (test_connect*.py): a server that sends exactly the bytes it is told to, a server of
python3-websockets, and scripts that say what becomes of a client."""
import asyncio
import base64
import contextlib
import hashlib
import re
import socket
import struct
import threading
from typing import NamedTuple

import websockets

from conftest import CLOSE, PATIENCE, Raw, frame
from migrating import TOOLS

CLIENTS = "tidewire_clients"
OPENED = 'tidewire_client_connects_total{outcome="ok"}'
FAILED = 'tidewire_client_connects_total{outcome="failed"}'

# `dial` connects, keeps what it gets in C, and returns "open" or why not. `hear` logs whatever comes.
DIAL = TOOLS + """
function hear(c, name)
  name = name or "client"
  c:on_text(function(_, text) log.info(name .. " text <" .. text .. ">") end)
  c:on_binary(function(_, bytes) log.info(name .. " binary " .. #bytes) end)
  c:on_ping(function(_, payload) log.info(name .. " ping <" .. payload .. ">") end)
  c:on_pong(function(_, payload) log.info(name .. " pong <" .. payload .. ">") end)
  c:on_close(function(_, code, reason) log.info(name .. " closed <" .. code .. " " .. reason .. ">") end)
end
function dial(url, options, f)
  local why
  C, why = app.connect(url, options or {}, f or hear)
  if C then assert(why == nil) return "open" end
  return why
end
app.websocket("/run", {max_message = "1m"}, function(ws, req)
  ws:on_text(function(ws, text) ws:send(run(ws, req, text)) end)
end)
app.websocket("/echo", function(ws)
  ws:on_text(function(ws, text) ws:send(text) end)
  ws:on_binary(function(ws, bytes) ws:send_binary(bytes) end)
  ws:on_close(function(ws, code, reason) log.info("echo closed <" .. code .. " " .. reason .. ">") end)
end)
"""


def accept_of(key):  # RFC 6455, 4.2.2
    return base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool
    rsv: int
    mask: bytes


class Peer(Raw):
    """The server's side of one connection."""

    def ask(self):
        """The request's head: its first line, and the headers as a list of (name in small letters, value)."""
        first, *lines = self.until(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
        self.line = first
        self.fields = [(name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines)]
        return self

    def field(self, name):
        """The value of a header that is there at most once."""
        values = [value for n, value in self.fields if n == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    def switch(self, *lines, behind=b"", accept=None):
        """Answers with 101, more header lines, and bytes behind it in the same packet."""
        accept = accept or accept_of(self.field("sec-websocket-key"))
        head = "\r\n".join(["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
                            f"Sec-WebSocket-Accept: {accept}", *lines, "", ""])
        self.send(head.encode("latin-1") + behind)
        return self

    def send_frame(self, opcode, payload=b"", **kwargs):
        self.send(frame(opcode, payload, **{"mask": None, **kwargs}))

    def any_frame(self):
        first, second = self.take(2)
        assert second & 0x80, "a client's frame must be masked (RFC 6455, 5.3)"
        length = second & 127
        if length == 126:
            length, = struct.unpack(">H", self.take(2))
        elif length == 127:
            length, = struct.unpack(">Q", self.take(8))
        mask = self.take(4)
        payload = bytearray(self.take(length))
        for i in range(4):
            payload[i::4] = bytes(b ^ mask[i] for b in payload[i::4])
        return Frame(first & 15, bytes(payload), bool(first & 0x80), first >> 4 & 7, mask)

    def frame(self):
        f = self.any_frame()
        assert f.fin and not f.rsv, f
        return f.opcode, f.payload

    def expect_gone(self):
        """The client has closed, perhaps without having read all; whatever it had sent, it is thrown away."""
        with contextlib.suppress(ConnectionResetError):
            while self._fill():
                pass

    def answer_close(self, code, reason=b""):
        """A Close with that code comes, and is answered; then the client waits for the end."""
        opcode, payload = self.frame()
        assert (opcode, payload) == (CLOSE, struct.pack(">H", code) + reason)
        self.send_frame(CLOSE, payload[:2])
        self.close()


class Upstream:
    """Listens; the test answers what connects."""

    def __init__(self, receive_buffer=0):
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(1000)
        self.sock.settimeout(PATIENCE)
        self.port = self.sock.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/"
        self.peers = []

    def accept(self):
        """The next connection, which has sent nothing that was looked at yet."""
        sock, _ = self.sock.accept()
        sock.settimeout(PATIENCE)
        self.peers.append(Peer(sock))
        return self.peers[-1]

    def open(self, *lines, **kwargs):
        """The next connection, upgraded."""
        return self.accept().ask().switch(*lines, **kwargs)

    def close(self):
        for peer in self.peers:
            peer.close()
        self.sock.close()


@contextlib.contextmanager
def library(handler, **options):
    """A server of python3-websockets, in a thread of its own; gives its URL. An error in the handler is raised here."""
    loop, ready, problems = asyncio.new_event_loop(), threading.Event(), []

    async def guarded(ws):
        try:
            await handler(ws)
        except websockets.ConnectionClosed:
            pass
        except BaseException as problem:
            problems.append(problem)
            raise

    async def serve():
        async with websockets.serve(guarded, "127.0.0.1", 0, **{"max_size": None, **options}) as server:
            serve.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            serve.end = asyncio.Event()
            ready.set()
            await serve.end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield serve.url
    finally:
        loop.call_soon_threadsafe(serve.end.set)
        thread.join(PATIENCE)
        loop.close()
    assert not problems, problems


def finish_answer(peer, begun):
    """The rest of the 101 of which so many bytes have been sent."""
    sent = []
    peer.send, send = sent.append, peer.send
    peer.switch()
    del peer.send
    send(b"".join(sent)[begun:])


def free_port():
    """A port that nobody listens on, and that nobody else is given while the socket returned is open."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock, sock.getsockname()[1]


def said(server, name="client"):
    """What `hear` has logged of a client, in order."""
    return re.findall(rf"\] {name} (.*)", server.log)
