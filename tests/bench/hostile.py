#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Sends the requests of tests/e2e/hostile.py to Tidewire and to nginx, and prints what both answer as a table."""
import socket
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from conftest import BINARY  # noqa: E402
from hostile import CASES, MARKER, MARKER_TOLD, SITE  # noqa: E402
from peers import nginx, tidewire  # noqa: E402

PATIENCE = 3  # seconds until a server that is silent counts as one that waits

# The routes of SITE.
ROUTES = """
location / {
  content_by_lua_block {
    local method, path = ngx.req.get_method(), ngx.var.uri
    if method == "OPTIONS" then return ngx.exit(204) end
    if path ~= "/" and path ~= "/marker" and path ~= "/host" then return ngx.exit(404) end
    if method ~= "GET" and method ~= "POST" then return ngx.exit(405) end
    ngx.req.read_body()
    local told = ("%s %s %d"):format(method, path, #(ngx.req.get_body_data() or ""))
    if path == "/host" then told = ngx.var.host end
    ngx.header.content_length = #told
    ngx.print(told)
  }
}
"""

# Why Tidewire may take what nginx refuses.
LAXER = {
    "Content-Length with a tab before it (5.1)": "a tab is as good as a blank there; nginx knows blanks only",
    "Transfer-Encoding: CHUNKED after a tab (7)": "the same",
    "Connection: closed (9.3)": "the option is `close`; nginx looks for these letters anywhere in the value",
    "an empty Host (3.2)": "it is what a client sends whose URL has no authority, and names no other host",
    "the asterisk for OPTIONS (3.2.4)": "it is how to ask about the server as a whole; nginx does not know that form",
    "TRACE (9110, 9.3.8)": "both refuse it; it is a whole request, so nothing speaks against another one behind it",
    "%2e%2e/ above the root (3986, 5.2.4)": "both refuse it: to Tidewire dot segments are names that no route has, 404",
}


class Answers(NamedTuple):
    statuses: tuple
    end: str  # "kept", "closed" or "waits"
    told: tuple  # the bodies of those with 200

    def taken(self):
        """How many requests were not refused."""
        return sum(status == "0.9" or "200" <= status < "400" for status in self.statuses)


class Stream:
    """What a server sends, answer by answer."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, b""

    def fill(self):
        try:
            piece = self.sock.recv(65536)
        except ConnectionResetError:
            piece = b""
        self.buffer += piece
        return bool(piece)

    def take(self, n):
        while len(self.buffer) < n and self.fill():
            pass
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data.decode("latin-1")

    def answer(self):
        """Status and body, or None at the end."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.fill():
                if not self.buffer:
                    return None
                return "0.9", self.take(len(self.buffer))  # a body and no head
        lines = self.take(self.buffer.index(b"\r\n\r\n") + 4).lower().split("\r\n")
        lengths = [int(line[15:]) for line in lines if line.startswith("content-length:")]
        return lines[0].split(" ")[1], self.take(lengths[0] if lengths else 0)


def ask(port, data):
    """Sends a case, behind its first answer the marker, and returns what came back."""
    statuses, told, marked, end = [], [], False, "closed"
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        stream = Stream(sock)
        try:
            sock.sendall(data)
            while answer := stream.answer():
                if marked and answer == ("200", MARKER_TOLD):
                    end = "kept"
                    break
                statuses.append(answer[0])
                told += [answer[1]] if answer[0] == "200" else []
                if not marked and answer[0] != "100":
                    marked = True
                    try:
                        sock.sendall(MARKER)
                    except OSError:
                        pass  # it has closed; what it sent before is still to be read
        except TimeoutError:
            end = "waits"
    return Answers(tuple(statuses), end, tuple(told))


def expected(case):
    return Answers(tuple(map(str, case.statuses)), "kept" if case.kept else "closed", case.told)


# ---- the table ----

def cell(ours, theirs):
    """The column of `ours`; what was understood is told where that makes a difference."""
    what = " ".join([*ours.statuses, ours.end])
    both_took = ours.taken() > 0 and theirs.taken() > 0
    return f"{what} ({', '.join(ours.told)})" if both_took and ours.told != theirs.told else what


def is_laxer(ours, theirs):
    return ours.taken() > theirs.taken() or (
        ours.taken() == theirs.taken() and ours.end == "kept" and theirs.end == "closed")


def report(rows):
    print("| request | Tidewire | nginx |\n| --- | --- | --- |")
    for case, ours, theirs in rows:
        print(f"| {case.name} | {cell(ours, theirs)} | {cell(theirs, ours)} |")
    alike = sum(ours == theirs for _, ours, theirs in rows)
    verdicts = sum(ours.taken() == theirs.taken() for _, ours, theirs in rows)
    stricter = sum(ours.taken() < theirs.taken() for _, ours, theirs in rows)
    print(f"\nOf {len(rows)} requests, {alike} are answered alike, status and connection; {verdicts} are taken or "
          f"refused alike. Tidewire refuses {stricter} that nginx takes.")
    laxer = [case for case, ours, theirs in rows if is_laxer(ours, theirs)]
    print(f"Tidewire is laxer in {len(laxer)}{':' if laxer else '.'}\n")
    for case in laxer:
        print(f"- {case.name}: {LAXER.get(case.name, 'no reason is noted')}")
    wrong = [(case, ours) for case, ours, _ in rows if ours != expected(case)]
    for case, ours in wrong:
        print(f"\nWRONG: {case.name}: {ours}, not {expected(case)}")
    return 1 if wrong else 0


def main():
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "main.lua"
        script.write_text(SITE, encoding="utf-8")
        with tidewire(BINARY, script) as (_, ours), nginx(folder, ROUTES) as (_, theirs):
            rows = [(case, ask(ours, case.data), ask(theirs, case.data)) for case in CASES]
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
