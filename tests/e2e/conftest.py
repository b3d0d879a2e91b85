# SPDX-License-Identifier: MIT
"""Fixtures of the end-to-end tests: a server of its own for each test, raw clients, nothing shared.

Every server listens on port 0 and says which port that became; every wait is for an event and bounded by
PATIENCE, which is never part of what a test asserts.
"""
import base64
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from certificates import Certificates

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TIDEWIRE_BIN", str(ROOT / "build" / "tidewire"))
PATIENCE = float(os.environ.get("TIDEWIRE_TEST_PATIENCE", "60"))  # seconds before a test that waits for an event gives up

# Every server that is not told where to listen does so with TLS, and raw clients speak it.
OVER_TLS = os.environ.get("TIDEWIRE_TEST_TLS", "") != ""

# What a test says about memory or speed is not true of a server that ThreadSanitizer shadows.
not_under_tsan = pytest.mark.skipif(f"{os.sep}tsan{os.sep}" in BINARY, reason="measures what ThreadSanitizer distorts")

SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:")

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

CONT, TEXT, BINARY_OP, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def environment(**extra):
    env = {k: v for k, v in os.environ.items() if not k.startswith("TIDEWIRE_")}
    env.update({f"TIDEWIRE_{k.upper()}": str(v) for k, v in extra.items() if v is not None})
    return env


def run(*args, env=None, **kwargs):
    """Runs the binary to its end; returns the CompletedProcess with text output."""
    return subprocess.run([BINARY, *map(str, args)], env=environment(**(env or {})), text=True, capture_output=True,
                          timeout=PATIENCE, check=False, **kwargs)


class Server:
    """A running server. Options given as keywords become TIDEWIRE_* variables."""

    def __init__(self, script, folder, *args, **options):
        self.folder = folder
        self.control_path = folder / "control.sock"
        self.context = None  # of raw clients; None: plain
        options.setdefault("listen", "127.0.0.1:0")
        options.setdefault("control", self.control_path)
        self.script = script
        self.process = subprocess.Popen([BINARY, str(script), *map(str, args)], env=environment(**options),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.told_to_stop = False
        self.lines = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.expected_exit = 0
        line = self.wait_log(r"(?<!admin )listening on ([^\s\"]+)")
        self.address = line.group(1)
        if not self.address.startswith("unix:"):
            self.port = int(self.address.rsplit(":", 1)[1])

    def _read(self):
        for raw in self.process.stdout:
            with self._changed:
                self.lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def pid(self):
        return self.process.pid

    @property
    def log(self):
        with self._changed:
            return "\n".join(self.lines)

    def wait_log(self, pattern, start=0):
        """Waits until the log, from line number `start` on, matches `pattern` (lines joined by newlines)."""
        with self._changed:
            found = None

            def there():
                nonlocal found
                found = re.search(pattern, "\n".join(self.lines[start:]))
                return found or self._ended
            assert self._changed.wait_for(there, PATIENCE), f"no {pattern!r} in the log:\n" + "\n".join(self.lines)
            assert found, f"the server ended without {pattern!r} in the log:\n" + "\n".join(self.lines)
            return found

    def mark(self):
        """The number of lines logged so far, for wait_log(start=...)."""
        with self._changed:
            return len(self.lines)

    def send_signal(self, number):
        self.told_to_stop |= number in (signal.SIGTERM, signal.SIGINT)
        self.process.send_signal(number)

    def reload(self, text=None):
        """Replaces the script (when given), sends SIGHUP and waits for the outcome: True when it was taken."""
        if text is not None:
            Path(self.script).write_text(text, encoding="utf-8")
        start = self.mark()
        self.send_signal(signal.SIGHUP)
        return self.wait_log(r"serves new connections|reload refused", start).group(0) != "reload refused"

    def ask(self, request):
        """One request on the control socket; the whole answer."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(str(self.control_path))
            s.sendall(request.encode() + b"\n")
            answer = b""
            while piece := s.recv(65536):
                answer += piece
            return answer.decode()

    def metrics(self):
        """{"tidewire_websockets": 3, 'tidewire_http_responses_total{class="4xx"}': 1, ...}. There are sums too: over
        all labels of a name under the name alone ("tidewire_connections"), and over the routes."""
        found = {}
        for line in self.ask("metrics").splitlines():
            if line.startswith("#"):
                continue
            key, value = line.rsplit(" ", 1)
            value = float(value) if "." in value or "e" in value else int(value)
            for name in {key, key.split("{")[0], re.sub(r'method="[^"]*",route="(?:[^"\\\\]|\\\\.)*",', "", key)}:
                found[name] = found.get(name, 0) + value
        return found

    def wait_metric(self, name, value):
        """Asks until a metric has `value`, or until value(metric) is true, and returns it. Each round trip goes through
        the server, so it is no busy loop."""
        deadline = time.monotonic() + PATIENCE
        reached = value if callable(value) else value.__eq__
        while not reached(now := self.metrics()[name]):
            assert time.monotonic() < deadline, f"{name} is {now}"
        return now

    def send_apart(self, client, *pieces):
        """Sends each piece only when the server has read the one before. All that was sent earlier must have been
        answered."""
        for piece in pieces:
            name = "tidewire_received_bytes_total"
            before = self.metrics()[name]
            client.send(piece)
            self.wait_metric(name, before + len(piece))

    def stop(self, number=signal.SIGTERM):
        """Sends the signal (unless it has ended) and returns the exit code once it has."""
        if self.process.poll() is None and number is not None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        self.process.stdout.close()

    def url(self, path="/"):
        return f"{'ws' if self.context is None else 'wss'}://127.0.0.1:{self.port}{path}"

    def raw(self, path=None, **headers):
        """A raw TCP client; with a path it has already upgraded."""
        if self.context is not None:
            return self.secure(self.context, path, **headers)
        client = Raw(socket.create_connection(("127.0.0.1", self.port), PATIENCE))
        return client.upgrade(path, **headers) if path else client

    def secure(self, context, path=None, name="localhost", session=None, **headers):
        """The same with TLS; an end without close_notify is an error."""
        client = secured(socket.create_connection(("127.0.0.1", self.port), PATIENCE), context, name, session)
        return client.upgrade(path, **headers) if path else client

    def wrap(self, sock):
        """A raw client on this connected socket."""
        return Raw(sock) if self.context is None else secured(sock, self.context)


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve(tmp_path, request, monkeypatch):
    """serve(lua_source, *flags, key=value...) starts a server and returns it; it must end with exit code 0 (see
    expected_exit) and without a word from a sanitizer."""
    servers = []
    certs = request.getfixturevalue("certs") if OVER_TLS else None
    if certs:
        monkeypatch.setenv("SSL_CERT_FILE", str(certs.ca()))
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(certs.ca()))

    def start(source, *args, name="main.lua", **options):
        folder = tmp_path / f"server{len(servers)}"
        folder.mkdir()
        script = folder / name
        script.write_text(source, encoding="utf-8")
        over_tls = certs and "listen" not in options and not {"-l", "--listen"} & set(args)
        server = Server(script, folder, *args, **({"listen": certs.spec(), **options} if over_tls else options))
        server.context = certs.context() if over_tls else None
        servers.append(server)
        return server
    yield start
    problems = []
    for server in servers:
        try:
            # a second signal would cut short what the first has begun
            code = server.stop(None if server.told_to_stop else signal.SIGTERM)
            if code != server.expected_exit:
                problems.append(f"exit code {code}, not {server.expected_exit}:\n{server.log}")
        except subprocess.TimeoutExpired:
            problems.append(f"did not end after SIGTERM:\n{server.log}")
        finally:
            server.kill()
        if SANITIZER.search(server.log):
            problems.append(server.log)
    assert not problems, "\n".join(problems)


@pytest.fixture(name="started_by")
def started_by_a_script(monkeypatch, tmp_path):
    """started_by(python) lets every server be started by these lines."""
    def prepare(lines):
        path = tmp_path / "parent"
        path.write_text(f"#!/usr/bin/python3\nimport os, socket, sys\n{lines}\n"
                        f"os.execv({BINARY!r}, [{BINARY!r}, *sys.argv[1:]])\n", encoding="utf-8")
        path.chmod(0o755)
        monkeypatch.setattr(sys.modules[__name__], "BINARY", str(path))
    return prepare


class Response:
    def __init__(self, status, reason, headers, body):
        self.status, self.reason, self.headers, self.body = status, reason, headers, body


class Raw:
    """A client that sends exactly the bytes it is told to."""

    def __init__(self, sock):
        self.sock = sock
        if sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def _fill(self):
        piece = self.sock.recv(65536)
        self.buffer += piece
        return bool(piece)

    def take(self, n):
        while len(self.buffer) < n:
            assert self._fill(), f"the server closed after {self.buffer!r}"
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def until(self, mark):
        while mark not in self.buffer:
            assert self._fill(), f"the server closed after {self.buffer!r}"
        return self.take(self.buffer.index(mark) + len(mark))

    def expect_end(self):
        """Nothing but the end of the stream follows."""
        assert not self.buffer
        assert not self._fill(), f"instead of the end: {self.buffer!r}"

    # ---- HTTP ----

    def response(self, head_only=False):
        head = self.until(b"\r\n\r\n").decode("latin-1")
        start, *lines = head[:-4].split("\r\n")
        version, status, reason = start.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {}
        for line in lines:
            name, value = line.split(":", 1)
            headers[name.lower()] = value.strip()
        body = b"" if head_only or status == "101" else self.take(int(headers.get("content-length", 0)))
        return Response(int(status), reason, headers, body.decode())

    def request(self, text):
        """Sends a head given with plain line feeds and returns the answer."""
        self.send(text.replace("\n", "\r\n"))
        return self.response(head_only=text.startswith("HEAD"))

    def handshake(self, path, **headers):
        """Sends an upgrade; headers are given as name_with_underscores, None leaves one out."""
        fields = {"host": "localhost", "upgrade": "websocket", "connection": "Upgrade",
                  "sec_websocket_key": KEY, "sec_websocket_version": "13", **headers}
        lines = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in fields.items() if v is not None)
        self.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n")

    def upgrade(self, path, **headers):
        self.handshake(path, **headers)
        answer = self.response()
        assert answer.status == 101, (answer.status, answer.body)
        assert answer.headers["sec-websocket-accept"] == ACCEPT
        return self

    # ---- WebSocket ----

    def send_frame(self, *args, **kwargs):
        self.send(frame(*args, **kwargs))

    def frame(self):
        """The next frame as (opcode, payload); it must be whole, final and unmasked."""
        first, second = self.take(2)
        assert first & 0xF0 == 0x80, f"fragment or reserved bits: {first:#x}"
        assert not second & 0x80, "the server masked a frame"
        length = second & 127
        if length == 126:
            length, = struct.unpack(">H", self.take(2))
        elif length == 127:
            length, = struct.unpack(">Q", self.take(8))
        return first & 15, self.take(length)

    def text(self):
        opcode, payload = self.frame()
        assert opcode == TEXT, (opcode, payload)
        return payload.decode()

    def expect_close(self, code):
        """A Close with `code` (None: without one), then the end of the stream. Returns the reason."""
        opcode, payload = self.frame()
        assert opcode == CLOSE, (opcode, payload)
        got = struct.unpack(">H", payload[:2])[0] if payload else None
        assert got == code, f"close code {got} ({payload[2:]!r}), not {code}"
        self.expect_end()
        return payload[2:].decode()


def secured(sock, context, name="localhost", session=None):
    """A raw client whose TLS handshake is over; an end without close_notify is an error."""
    try:
        return Raw(context.wrap_socket(sock, server_hostname=name, session=session, suppress_ragged_eofs=False))
    except Exception:
        sock.close()
        raise


def frame(opcode, payload=b"", fin=True, rsv=0, mask=b"\x11\x22\x33\x44", length=None, size=None):
    """A frame's bytes. mask=None leaves it unmasked; `length` lies about the payload's length; `size` picks the form
    of the length field (7, 16 or 64 bits)."""
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
    if mask is not None:
        head += mask
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
    return head + payload


def close_payload(code, reason=b""):
    return struct.pack(">H", code) + reason


def new_key():
    return base64.b64encode(os.urandom(16)).decode()
