# SPDX-License-Identifier: MIT
"""Hostile and odd HTTP/1.x requests, byte for byte, and what the server must answer: data for test_hostile.py and for
tests/bench/hostile.py.

The numbers in the names are sections of RFC 9112, where no other is said.
"""
from typing import NamedTuple

# Tells what was understood: a request that is taken for another one is seen by its body's length or by its path.
SITE = """
local function tell(req) return ("%s %s %d"):format(req.method, req.path, #(req.body or "")) end
app.get("/", tell)
app.post("/", tell)
app.get("marker", tell)
app.get("host", function(req) return req.headers.host or "none" end)
"""

# Sent behind each case. A server that has kept the connection, and understood where the request ended, answers it.
MARKER = b"GET /marker HTTP/1.1\r\nHost: x\r\n\r\n"
MARKER_TOLD = "GET /marker 0"

KEPT, CLOSED = True, False


class Case(NamedTuple):
    name: str
    data: bytes
    statuses: tuple  # of the answers, in their order, 100 too
    kept: bool  # whether the connection is, after the last of them
    told: tuple  # what the answers with 200 say


def join(start, *lines):
    """A head; lines are text, of which each character is a byte, or bytes."""
    return b"".join((line if isinstance(line, bytes) else line.encode("latin-1")) + b"\r\n"
                    for line in (start, *lines, ""))


def get(*lines, target="/", version="HTTP/1.1", method="GET", host="Host: x"):
    return join(f"{method} {target} {version}", *([] if host is None else [host]), *lines)


def post(body, *lines, version="HTTP/1.1"):
    return get(*lines, method="POST", version=version) + body


def chunked(body, *lines):
    return post(body, "Transfer-Encoding: chunked", *lines)


def refused(status, name, data):
    """The last answer of its connection."""
    return Case(name, data, (status,), CLOSED, ())


def bad(name, data):
    return refused(400, name, data)


def taken(name, data, *told, statuses=None, kept=KEPT):
    return Case(name, data, statuses or (200,) * len(told), kept, told)


HELLO = b"5\r\nhello\r\n0\r\n\r\n"

LENGTHS = [
    bad("Content-Length and Transfer-Encoding (6.1)", post(HELLO, "Content-Length: 15", "Transfer-Encoding: chunked")),
    bad("two Content-Lengths that differ (6.3)", post(b"hello", "Content-Length: 5", "Content-Length: 6")),
    bad("two Content-Lengths that are equal (6.3)", post(b"hello", "Content-Length: 5", "Content-Length: 5")),
    bad("Content-Length: 5, 5 (6.3)", post(b"hello", "Content-Length: 5, 5")),
    bad("Content-Length: 5 5 (6.2)", post(b"hello", "Content-Length: 5 5")),
    bad("Content-Length: +5 (6.2)", post(b"hello", "Content-Length: +5")),
    bad("Content-Length: -1 (6.2)", post(b"hello", "Content-Length: -1")),
    bad("Content-Length: 0x5 (6.2)", post(b"hello", "Content-Length: 0x5")),
    bad("Content-Length: 5.0 (6.2)", post(b"hello", "Content-Length: 5.0")),
    bad("Content-Length with a vertical tab (6.2)", post(b"hello", "Content-Length: \v5")),
    bad("Content-Length that is empty (6.2)", post(b"hello", "Content-Length:")),
    bad("Content-Length of 2^64 + 5 (6.2)", post(b"hello", "Content-Length: 18446744073709551621")),
    refused(413, "Content-Length of 2^63 (9110, 15.5.14)", post(b"hello", "Content-Length: 9223372036854775808")),
    taken("Content-Length with a blank behind it (5.1)", post(b"hello", "Content-Length: 5 "), "POST / 5"),
    taken("Content-Length with a tab before it (5.1)", post(b"hello", "Content-Length:\t5"), "POST / 5"),
    bad("Content-Length with a tab behind it", post(b"hello", "Content-Length: 5\t")),  # stricter than 5.1
    taken("Content-Length: 005 (6.2)", post(b"hello", "Content-Length: 005"), "POST / 5"),
    taken("GET with a body (9110, 9.3.1)", get("Content-Length: 5") + b"hello", "GET / 5"),
    taken("GET with Content-Length: 0, and one behind it (9.3.2)", get("Content-Length: 0") + get(),
          "GET / 0", "GET / 0"),
    taken("POST without a length (6.3)", post(b""), "POST / 0"),
    taken("an empty line behind a body (2.2)", post(b"hello\r\n", "Content-Length: 5"), "POST / 5"),
]

CHUNKS = [
    taken("a chunked GET (7.1)", get("Transfer-Encoding: chunked") + HELLO, "GET / 5"),
    taken("chunk extensions (7.1.1)", chunked(b'5;a;b=c\r\nhello\r\n0 ; d = "e;\\"\t"\r\n\r\n'), "POST / 5"),
    taken("trailer fields (7.1.2)", chunked(b"5\r\nhello\r\n0\r\nX: y\r\nZ:\r\n\r\n"), "POST / 5"),
    taken("a trailer with Content-Length (9110, 6.5.1)", chunked(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n"),
          "POST / 5"),
    taken("a trailer with Transfer-Encoding (9110, 6.5.1)",
          chunked(b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), "POST / 5"),
    bad("a chunk size that is no number (7.1)", chunked(b"g\r\nhello\r\n0\r\n\r\n")),
    bad("chunk size 0x5 (7.1)", chunked(b"0x5\r\nhello\r\n0\r\n\r\n")),
    bad("chunk size -5 (7.1)", chunked(b"-5\r\nhello\r\n0\r\n\r\n")),
    bad("chunk size +5 (7.1)", chunked(b"+5\r\nhello\r\n0\r\n\r\n")),
    bad("a chunk size that is missing (7.1)", chunked(b"\r\nhello\r\n0\r\n\r\n")),
    bad("a chunk size of 2^64 + 5 (7.1)", chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n")),
    bad("a chunk size of 2^64 - 1 (7.1)", chunked(b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n")),
    bad("a chunk size of 24 digits, most of them 0 (7.1)", chunked(b"%024x\r\nhello\r\n0\r\n\r\n" % 5)),
    bad("a blank behind a chunk size (7.1)", chunked(b"5 \r\nhello\r\n0\r\n\r\n")),
    bad("a blank before a chunk size (7.1)", chunked(b" 5\r\nhello\r\n0\r\n\r\n")),
    bad("nothing between a chunk and the next (7.1)", chunked(b"5\r\nhello0\r\n\r\n")),
    bad("a chunk longer than its size (7.1)", chunked(b"5\r\nhelloXX\r\n0\r\n\r\n")),
    bad("LF alone ends chunk lines (7.1)", chunked(b"5\nhello\n0\n\n")),
    bad("LF alone ends a chunk extension (7.1.1)", chunked(b"5;a\nhello\r\n0\r\n\r\n")),
    bad("CR alone ends a chunk size (7.1)", chunked(b"5\rhello\r\n0\r\n\r\n")),
    bad("LF alone ends a chunk (7.1)", chunked(b"5\r\nhello\n0\r\n\r\n")),
    bad("LF alone ends the last chunk (7.1)", chunked(b"5\r\nhello\r\n0\n\r\n")),
    bad("LF alone ends the trailer (7.1)", chunked(b"5\r\nhello\r\n0\r\n\n")),
    bad("a trailer field without a colon (7.1.2)", chunked(b"5\r\nhello\r\n0\r\nX y\r\n\r\n")),
    bad("a trailer field that is folded (7.1.2)", chunked(b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n")),
    bad("a NUL in a trailer field (9110, 5.5)", chunked(b"5\r\nhello\r\n0\r\nX: y\0\r\n\r\n")),
]

CODINGS = [
    taken("Transfer-Encoding: CHUNKED after a tab (7)", post(HELLO, "Transfer-Encoding:\tCHUNKED "), "POST / 5"),
    refused(501, "Transfer-Encoding: gzip, chunked (6.1)", post(HELLO, "Transfer-Encoding: gzip, chunked")),
    bad("Transfer-Encoding: chunked, identity (6.1)", post(HELLO, "Transfer-Encoding: chunked, identity")),
    bad("Transfer-Encoding: identity (6.1)", post(b"", "Transfer-Encoding: identity")),
    bad("Transfer-Encoding: xchunked (6.1)", post(HELLO, "Transfer-Encoding: xchunked")),
    bad("Transfer-Encoding: chunked;q=1 (7)", post(HELLO, "Transfer-Encoding: chunked;q=1")),
    bad('Transfer-Encoding: "chunked" (7)', post(HELLO, 'Transfer-Encoding: "chunked"')),
    bad("Transfer-Encoding with a vertical tab (6.1)", post(HELLO, "Transfer-Encoding: \vchunked")),
    bad("Transfer-Encoding that is empty (6.1)", post(b"", "Transfer-Encoding:")),
    bad("chunked twice in a list (6.1)", post(HELLO, "Transfer-Encoding: chunked, chunked")),
    bad("chunked twice in two headers (6.1)", chunked(HELLO, "Transfer-Encoding: chunked")),
    bad("chunked, and identity behind it (6.1)", chunked(HELLO, "Transfer-encoding: identity")),
    taken("Transfer_Encoding is another header (9110, 5.1)",
          post(b"hello", "Content-Length: 5", "Transfer_Encoding: chunked"), "POST / 5"),
    bad("Transfer-Encoding over HTTP/1.0 (6.1)", post(HELLO, "Transfer-Encoding: chunked", version="HTTP/1.0")),
]

# What a front end and a server behind it could understand differently.
SMUGGLED = get()
BEGUN = b"GET / HTTP/1.1\r\nHost: x\r\nX: "

SMUGGLING = [
    bad("CL.TE: the rest is another request (11.2)",
        post(b"0\r\n\r\n" + BEGUN, f"Content-Length: {5 + len(BEGUN)}", "Transfer-Encoding: chunked")),
    bad("TE.CL: a chunk is another request (11.2)",
        post(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), "Content-Length: 4", "Transfer-Encoding: chunked")),
    bad("TE.TE: a blank before the colon (11.2)", post(HELLO, "Content-Length: 5", "Transfer-Encoding : chunked")),
    bad("TE.TE: a folded value (11.2)", post(HELLO, "Content-Length: 5", "Transfer-Encoding:", " chunked")),
    bad("TE.TE: another coding behind it (11.2)",
        post(HELLO, "Content-Length: 5", "Transfer-Encoding: chunked", "Transfer-encoding: cow")),
    bad("TE.TE: hidden behind LF (11.2)", post(HELLO, "Content-Length: 5", "X: y\nTransfer-Encoding: chunked")),
    bad("TE.TE: hidden behind CR (11.2)", post(HELLO, "Content-Length: 5", "X: y\rTransfer-Encoding: chunked")),
    bad("TE.TE: a NUL in the name (11.2)", post(HELLO, "Content-Length: 5", "Transfer-Encoding\0: chunked")),
    bad("CL.0: a length on a first line that is folded (11.2)",
        join("POST / HTTP/1.1", " Content-Length: 5", "Host: x") + b"hello"),
    bad("a request within a refused body (9.6)", post(SMUGGLED, f"Content-Length: +{len(SMUGGLED)}")),
]

FIELDS = [
    bad("CR alone in a value (2.2)", get("X: a\rb")),
    bad("LF alone ends the lines (2.2)", b"GET / HTTP/1.1\nHost: x\n\n"),
    bad("a NUL in a value (9110, 5.5)", get("X: a\0b")),
    bad("a blank before the colon (5.1)", get("X : a")),
    bad("a blank before the first header (2.2)", get(host=" Host: x")),
    bad("a folded line (5.2)", get("X: a", " b")),
    bad("an empty name (5.1)", get(": a")),
    bad("no colon (5)", get("nonsense")),
    bad("a name that is no token (9110, 5.1)", get("X(Y): a")),
    taken("a value with a byte over 127 (9110, 5.5)", get("X: gr\xfc\xdfe"), "GET / 0"),
    refused(431, "300 headers (6585, 5)", get(*["X: y"] * 300)),
    refused(431, "a header of 20 KiB (6585, 5)", get("X: " + "y" * 20480)),
    taken("Expect: 100-continue, and the body with it (9110, 10.1.1)",
          post(b"hello", "Expect: 100-continue", "Content-Length: 5"), "POST / 5", statuses=(100, 200)),
    taken("Expect with another value (9110, 10.1.1)", get("Expect: 200-ok"), "GET / 0"),
    taken("Connection: foo, CLOSE (9.6)", get("Connection: foo, CLOSE"), "GET / 0", kept=CLOSED),
    taken("Connection: closed (9.3)", get("Connection: closed"), "GET / 0"),
    taken("Connection: keep-alive over HTTP/1.0 (9.3)", get("Connection: keep-alive", version="HTTP/1.0"), "GET / 0"),
    taken("HTTP/1.0 (9.3)", get(version="HTTP/1.0", host=None), "GET / 0", kept=CLOSED),
    taken("Upgrade: h2c (9110, 7.8)",
          get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), "GET / 0"),
    bad("a WebSocket handshake with a body (6455, 4.1)",
        get("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Content-Length: 5") + b"hello"),
]

HOSTS = [
    bad("no Host (3.2)", get(host=None)),
    bad("two Hosts (3.2)", get("Host: x")),
    taken("an empty Host (3.2)", get(host="Host:"), "GET / 0"),
    bad("a Host with a blank (3.2)", get(host="Host: a b")),
    bad("a Host with a user name (3.2)", get(host="Host: me@x")),
    bad("a Host with a path (3.2)", get(host="Host: x/y")),
    bad("a Host whose port is no number (3.2)", get(host="Host: x:eighty")),
    bad("a Host with two ports (3.2)", get(host="Host: x:80:81")),
    taken("the absolute form (3.2.2)", get(target="http://x/marker"), "GET /marker 0"),
    taken("the absolute form and another Host, which is ignored (3.2.2)", get(target="http://y/host"), "y"),
    bad("the absolute form with a user name (9110, 4.2.4)", get(target="http://me@x/")),
    bad("the absolute form without a host (9110, 4.2.1)", get(target="http:///")),
    bad("the absolute form and no Host (3.2)", get(target="http://x/", host=None)),
]

LINES = [
    bad("the authority form for GET (3.2.3)", get(target="x:80")),
    bad("the asterisk for GET (3.2.4)", get(target="*")),
    taken("the asterisk for OPTIONS (3.2.4)", get(target="*", method="OPTIONS"), statuses=(204,)),
    refused(505, "HTTP/0.9 (3)", b"GET /\r\n\r\n"),
    refused(505, "HTTP/1.2 (9110, 6.2)", get(version="HTTP/1.2")),
    refused(505, "HTTP/2.0 (9110, 15.6.6)", get(version="HTTP/2.0")),
    refused(505, "HTTP/1.10 (2.3)", get(version="HTTP/1.10")),
    refused(505, "http/1.1 (2.3)", get(version="http/1.1")),
    refused(505, "RTSP/1.0 (2.3)", get(version="RTSP/1.0")),
    refused(505, "the preface of HTTP/2 (9113, 3.4)", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    bad("a TLS handshake", b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + bytes(range(32)) +
        b"\x00\x00\x02\x13\x01\x01\x00\x00\x00"),
    bad("two blanks before the target (3)", get(target=" /")),
    bad("two blanks before the version (3)", get(target="/ ")),
    bad("a blank behind the version (3)", get(version="HTTP/1.1 ")),
    bad("a tab for a blank (3)", join("GET\t/ HTTP/1.1", "Host: x")),
    taken("two empty lines before it (2.2)", b"\r\n\r\n" + get(), "GET / 0"),
    bad("three empty lines before it (2.2)", b"\r\n\r\n\r\n" + get()),
    bad("an empty line of LF alone before it (2.2)", b"\n" + get()),
    refused(501, "a method in small letters (9110, 9.1)", get(method="get")),
    refused(501, "an unknown method (9110, 9.1)", get(method="BREW")),
    refused(501, "a method of 4,000 letters (3.1)", get(method="A" * 4000)),
    refused(501, "CONNECT (9110, 9.3.6)", get(target="x:80", method="CONNECT")),
    taken("TRACE (9110, 9.3.8)", get(method="TRACE"), statuses=(405,)),
    bad("a NUL in the path (3.2)", get(target="/\0")),
    bad("%00 in the path (3986, 7.3)", get(target="/%00")),
    bad("%zz in the path (3986, 2.1)", get(target="/%zz")),
    bad("a byte over 127 in the path (3.2)", get(target="/\xfc")),
    bad("a fragment (3.2)", get(target="/#x")),
    taken("%2e%2e/ above the root (3986, 5.2.4)", get(target="/%2e%2e/marker"), statuses=(404,)),
    taken("dot segments within the path (3986, 5.2.4)", get(target="/x/../marker"), statuses=(404,)),
    taken("a slash that is escaped (3986, 2.2)", get(target="/%2fmarker"), statuses=(404,)),
    refused(414, "a target of 20 KiB (3)", get(target="/" + "x" * 20480)),
]

CASES = LENGTHS + CHUNKS + CODINGS + SMUGGLING + FIELDS + HOSTS + LINES
