# SPDX-License-Identifier: MIT
"""The HTTP side (RFC 9112, 9110 and RFC 6455, 4): every request that opens no WebSocket gets an answer that a
person can read, and what a request says reaches the script."""
import socket
import ssl

import pytest

from conftest import ACCEPT, KEY, PATIENCE, TEXT, Raw, frame

# The routes below "tell" evaluate the expression they are sent, which sees `req`.
SITE = """
app.websocket("echo", function(ws)
  ws:on_text(function(_, text) ws:send(text) end)
end)

local function tell(ws, req)
  ws:on_text(function(_, text)
    local env = setmetatable({req = req, ws = ws}, {__index = _G})
    ws:send(tostring(assert(load("return " .. text, "=test", "t", env))()))
  end)
end

app.websocket("tell", tell)
app.websocket("tell/room/:room/:user", tell)
app.websocket("tell/any/*/end", tell)
app.websocket("tell/rest/**", tell)
app.websocket("tell/größe", function(ws) ws:send("constant") end)
app.websocket("tell/a/b", function(ws) ws:send("two components") end)
"""

HOST = "Host: localhost"
UPGRADE = [HOST, "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"]


def request(start, *lines):
    """The bytes of a head; lines are text (sent as UTF-8) or bytes."""
    return b"".join((line if isinstance(line, bytes) else line.encode()) + b"\r\n" for line in (start, *lines, b""))


def handshake(path="/echo", *more, without=None, version="HTTP/1.1", method="GET"):
    """A good handshake, with lines added and the header `without` left out."""
    lines = [line for line in UPGRADE if without is None or not line.startswith(without + ":")]
    return request(f"{method} {path} {version}", *lines, *more)


HANDSHAKE = handshake()


def check_echo(client):
    client.send_frame(TEXT, "hello")
    assert client.text() == "hello"


@pytest.fixture
def site(serve):
    """site(option=...) starts the server. What happens to the other connections must not disturb this one."""
    lives = []

    def start(**options):
        server = serve(SITE, **options)
        lives.append(server.raw("/echo"))
        check_echo(lives[-1])
        return server
    yield start
    for live in lives:
        check_echo(live)
        live.close()


@pytest.fixture
def server(site):
    return site()


def read_refusal(client, status, head_only=False, last=True):
    """The next answer must be a whole one with a text for a person, and the last, or else the connection is kept."""
    answer = client.response(head_only=head_only)
    assert answer.status == status, (answer.status, answer.body)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert ("close" in answer.headers.get("connection", "").lower().split(", ")) == last
    assert "date" in answer.headers
    length = int(answer.headers["content-length"])
    assert length >= len(f"{status} {answer.reason}")
    if not head_only:
        assert len(answer.body.encode()) == length
        assert answer.body.startswith(f"{status} {answer.reason}\n")
        assert answer.body.endswith(".\n"), "no sentence says what is wrong"
    if last:
        client.expect_end()
    else:
        client.send(request("GET /nothing HTTP/1.1", HOST, "Connection: close"))
        read_refusal(client, 404)
    return answer


def refuse(server, data, status, head_only=False, last=True):
    with server.raw() as client:
        client.send(data)
        return read_refusal(client, status, head_only, last)


def check_upgrades(client, data=HANDSHAKE):
    client.send(data)
    answer = client.response()
    assert answer.status == 101, answer.body
    check_echo(client)
    return answer


# ---- good handshakes (RFC 6455, 4.2) ----

def test_a_handshake_is_answered_4_2_2(server):
    with server.raw() as client:
        answer = check_upgrades(client)
    assert answer.reason == "Switching Protocols"
    assert answer.headers["upgrade"].lower() == "websocket"
    assert answer.headers["connection"].lower() == "upgrade"
    assert answer.headers["sec-websocket-accept"] == ACCEPT
    assert not {"sec-websocket-extensions", "sec-websocket-protocol", "content-length"} & answer.headers.keys()


def test_a_handshake_cut_in_two_at_every_byte(server):
    for i in range(1, len(HANDSHAKE)):
        with server.raw() as client:
            server.send_apart(client, HANDSHAKE[:i], HANDSHAKE[i:])
            assert client.response().status == 101


GOOD = {
    "Firefox's Connection": handshake("/echo", "Connection: keep-alive, Upgrade", without="Connection"),
    "two Connections": handshake("/echo", "Connection: keep-alive", "Connection: upgrade", without="Connection"),
    "letters of any case": handshake("/echo", "connection:upGRADE", without="Connection"),
    "empty list elements": handshake("/echo", "CONNECTION: \t ,, Upgrade ,\t", without="Connection"),
    "WebSocket": handshake("/echo", "Upgrade: WebSocket", without="Upgrade"),
    "a choice of upgrades": handshake("/echo", "upgrade: h2c, websocket", without="Upgrade"),
    "blanks around the key": handshake("/echo", f"sec-websocket-KEY:  {KEY} \t", without="Sec-WebSocket-Key"),
    "a query": handshake("/echo?x=1"),
    "a trailing slash": handshake("/echo/"),
    "a double slash": handshake("//echo"),
    "an escape": handshake("/%65cho"),
    "nothing but escapes": handshake("/%65%63%68%6F"),
    "an empty line before (9112, 2.2)": b"\r\n" + HANDSHAKE,
    "empty values": handshake("/echo", "X-Empty:", "X-Blank: \t "),
    "a value in Latin 1": handshake("/echo", b"X-Latin: gr\xfc\xdfe"),
    "a large cookie": handshake("/echo", "Cookie: " + "c" * 8000),
    "an IPv6 Host": handshake("/echo", "Host: [::1]:8080", without="Host"),
    "protocols": handshake("/echo", "Sec-WebSocket-Protocol: chat, superchat"),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD.keys())
def test_handshakes_in_other_words_are_as_good(server, data):
    with server.raw() as client:
        check_upgrades(client, data)


@pytest.mark.parametrize("target", [
    "http://localhost/echo", "ws://localhost/echo", "wss://example.org:8443/echo?x=http://y/", "HTTPS://[::1]:80/echo"])
def test_the_absolute_form_is_accepted_9112_3_2_2(server, target):
    with server.raw() as client:
        check_upgrades(client, handshake(target))


# ---- no WebSocket wanted ----

@pytest.mark.parametrize("path", ["/", "/nothing", "/echo/more", "/Echo", "/tell/room/only", "/%2Fecho", "/echo%20"])
def test_an_unknown_path_is_404(server, path):
    refuse(server, request(f"GET {path} HTTP/1.1", HOST), 404, last=False)
    refuse(server, request(f"POST {path} HTTP/1.1", HOST), 404, last=False)
    refuse(server, request(f"HEAD {path} HTTP/1.1", HOST), 404, head_only=True, last=False)
    refuse(server, handshake(path), 404)


@pytest.mark.parametrize("path, allow", [
    ("*", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"), ("/echo", "GET, OPTIONS")])
def test_options_tells_the_methods_9110_9_3_7(server, path, allow):
    with server.raw() as client:
        client.send(request(f"OPTIONS {path} HTTP/1.1", HOST))
        answer = client.response()
        assert (answer.status, answer.headers["allow"]) == (204, allow)
        assert "content-length" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_another_method_than_get_is_405_with_allow_9110_15_5_6(server, method):
    answer = refuse(server, request(f"{method} /echo HTTP/1.1", HOST), 405, last=False)
    assert "GET" in answer.headers["allow"].split(", ")


@pytest.mark.parametrize("body", [
    ["Content-Length: 5", "", "hello"], ["Content-Length: 1000000", "", "never sent"],
    ["Transfer-Encoding: chunked", "", "5", "hello", "0", ""], ["Expect: 100-continue", "Content-Length: 5", ""]],
    ids=["whole", "begun", "chunked", "expect"])
def test_a_refused_body_is_not_taken_for_a_request(server, body):
    refuse(server, request("POST /echo HTTP/1.1", HOST, *body), 405)
    refuse(server, request("POST /nothing HTTP/1.1", HOST, *body), 404)
    refuse(server, request("GET /echo HTTP/1.1", HOST, *body), 426)


def check_426(answer):
    assert answer.headers["upgrade"] == "websocket"
    assert "upgrade" in answer.headers["connection"].lower().split(", ")  # RFC 9110, 7.8
    assert answer.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize("lines", [[], ["Upgrade: h2c", "Connection: Upgrade"], ["Upgrade: websocketx"],
                                   ["Connection: Upgrade"], ["Accept: text/html", "Connection: keep-alive"]])
def test_a_plain_get_is_426_9110_15_5_22(server, lines):
    check_426(refuse(server, request("GET /echo HTTP/1.1", HOST, *lines), 426))
    check_426(refuse(server, request("HEAD /echo HTTP/1.1", HOST, *lines), 426, head_only=True))


def test_a_plain_get_over_http_1_0_needs_no_host(server):
    check_426(refuse(server, request("GET /echo HTTP/1.0"), 426))
    refuse(server, request("GET /nothing HTTP/1.0"), 404)


@pytest.mark.parametrize("lines", [
    [], ["Sec-WebSocket-Version: 12"], ["Sec-WebSocket-Version: 14"], ["Sec-WebSocket-Version: 8"],
    ["Sec-WebSocket-Version: 013"], ["Sec-WebSocket-Version: 13.0"], ["Sec-WebSocket-Version:"],
    ["Sec-WebSocket-Version: 13, 8"], ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"],
    ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"]], ids=lambda lines: "; ".join(lines)[23:] or "none")
def test_a_wrong_version_is_426_6455_4_4(server, lines):
    check_426(refuse(server, handshake("/echo", *lines, without="Sec-WebSocket-Version"), 426))


# ---- malformed handshakes (RFC 6455, 4.2.1) ----

@pytest.mark.parametrize("lines", [
    [], ["Sec-WebSocket-Key:"], [f"Sec-WebSocket-Key: {KEY}"] * 2, ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="] * 2,
    ["Sec-WebSocket-Key: dGhlIHNhbXBsZQ=="], [f"Sec-WebSocket-Key: {KEY}=="], [f"Sec-WebSocket-Key: {KEY[:-1]}"],
    ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTE="], ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j*Q=="],
    ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j Q=="], [f"Sec-WebSocket-Key: {KEY}, {KEY}"],
    ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ==="], ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"]],
    ids=lambda lines: "; ".join(lines)[19:] or "none")
def test_a_missing_repeated_or_bad_key_is_400_6455_4_2_1(server, lines):
    refuse(server, handshake("/echo", *lines, without="Sec-WebSocket-Key"), 400)


@pytest.mark.parametrize("data", [
    handshake(without="Connection"),
    handshake("/echo", "Connection: keep-alive", without="Connection"),
    handshake("/echo", "Connection: upgraded", without="Connection"),
    handshake("/echo", "Connection: close", without="Connection"),
    handshake(version="HTTP/1.0"),
    handshake(method="POST"),
    handshake(method="PUT"),
    handshake(method="OPTIONS"),
    handshake("/echo", "Content-Length: 0"),
    handshake("/echo", "Content-Length: 5") + b"hello",
    handshake("/echo", "Transfer-Encoding: chunked"),
    handshake("/echo", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    handshake(without="Host"),
], ids=["no connection", "keep-alive", "upgraded", "close", "1.0", "post", "put", "options", "empty body", "body",
        "chunked", "chunked body", "no host"])
def test_a_malformed_handshake_is_400_6455_4_2_1(server, data):
    refuse(server, data, 400)
    refuse(server, data + frame(TEXT, "frames behind it are no request"), 400)


def test_a_refused_handshake_may_have_frames_behind_it(server):
    wrong_version = handshake("/echo", "Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version")
    refuse(server, wrong_version + frame(TEXT, "x"), 426)
    refuse(server, handshake("/nothing") + frame(TEXT, "x") * 1000, 404)


@pytest.mark.parametrize("data, status", [
    (handshake(method="HEAD"), 400), (handshake("/nothing", method="HEAD"), 404),
    (request("HEAD /echo HTTP/1.1"), 400), (request("HEAD /echo HTTP/1.1", HOST, "X : y"), 400)],
    ids=["upgrade", "not found", "no host", "bad header"])
def test_an_answer_to_head_has_no_body_9110_9_3_2(server, data, status):
    refuse(server, data, status, head_only=True)


# ---- malformed heads (RFC 9112) ----

def get(*lines, target="/echo"):
    return request(f"GET {target} HTTP/1.1", HOST, *lines)


# Beside those of hostile.py.
MALFORMED = {
    "bare LF after the request line (2.2)": b"GET /echo HTTP/1.1\nHost: localhost\r\n\r\n",
    "bare LF after a header (2.2)": b"GET /echo HTTP/1.1\r\nHost: localhost\n\r\n",
    "bare LF for the empty line (2.2)": b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\n",
    "bare LF in a value (5.5)": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: a\nb\r\n\r\n",
    "bare CR in a value (2.2)": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
    "bare CR in a name (2.2)": b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX\rY: a\r\n\r\n",
    "bare CR in the request line (2.2)": b"GET /echo\rHTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CR CR LF (2.2)": b"GET /echo HTTP/1.1\r\r\nHost: localhost\r\n\r\n",
    "CR for the empty line (2.2)": b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\rX",
    "NUL in a value (5.5)": get(b"X: a\0b"),
    "NUL in a name (5.1)": get(b"X\0Y: a"),
    "NUL first": b"\0" + get(),
    "another control character in a value (5.5)": get(b"X: a\x01b"),
    "DEL in a value (5.5)": get(b"X: a\x7fb"),
    "a folded line (5.2)": get("X: a", " b"),
    "a line folded with a tab (5.2)": get("X: a", "\tb"),
    "a folded line of blanks (5.2)": get("X: a", "  "),
    "a tab before the colon (5.1)": get("X\t: a"),
    "a name beyond ASCII (5.1)": get("größe: a"),
    "no Host (3.2)": request("GET /echo HTTP/1.1"),
    "two Hosts in other letters (3.2)": get("hOST: example.org"),
    "a relative target (3.2)": get(target="echo"),
    "an empty target (3)": get(target=""),
    "a blank in the target (3.2)": get(target="/ec ho"),
    "a blank before the method (3)": request(" GET /echo HTTP/1.1", HOST),
    "a method that is no token (3.1)": request("G(T /echo HTTP/1.1", HOST),
    "no blank (3)": request("GET/echoHTTP/1.1", HOST),
    "another scheme (3.2.2)": get(target="ftp://localhost/echo"),
    "a fragment in the query (3.2)": get(target="/echo?a#top"),
    "an escape cut short": get(target="/echo%6"),
    "an escape at the end": get(target="/echo%"),
    "chunked not last (6.1)": get("Transfer-Encoding: chunked, gzip"),
    "no request at all": b"hello?\r\n\r\n",
}
malformed = pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())


@malformed
def test_a_malformed_head_is_400_9112(server, data):
    refuse(server, data, 400)


@malformed
def test_a_malformed_head_in_pieces_is_refused_as_well(server, data):
    for i in (1, len(data) // 2, len(data) - 1):
        with server.raw() as client:
            server.send_apart(client, data[:i], data[i:])
            read_refusal(client, 400)


@pytest.mark.parametrize("name", ["bare LF in a value (5.5)", "bare CR in a value (2.2)", "NUL in a value (5.5)",
                                  "a folded line (5.2)", "no Host (3.2)"])
def test_a_malformed_head_cut_in_two_at_every_byte_is_400(server, name):
    data = MALFORMED[name]
    for i in range(1, len(data)):
        with server.raw() as client:
            server.send_apart(client, data[:i], data[i:])
            read_refusal(client, 400)


def test_a_hopeless_head_is_refused_before_it_ends_9112_2_2(server):
    for begun in (b"GET /echo HTTP/1.1\n", b"GET /echo HTTP/1.1\r\nX: a\rb", b"GET /\0", b"\x05\x01\x00"):
        refuse(server, begun, 400)


def test_a_request_that_ends_within_its_head_is_400(server):
    for begun in (b"G", HANDSHAKE[:-1], HANDSHAKE[:40]):
        with server.raw() as client:
            client.send(begun)
            client.sock.shutdown(socket.SHUT_WR)
            read_refusal(client, 400)


def test_a_half_closed_request_is_answered(server):
    with server.raw() as client:
        client.send(get())
        client.sock.shutdown(socket.SHUT_WR)
        read_refusal(client, 426)


def test_a_second_request_behind_a_refused_one_is_not_answered(server):
    refuse(server, get() * 3 + HANDSHAKE, 426)
    refuse(server, get("X : a") + HANDSHAKE, 400)


def test_tls_is_400_and_the_answer_says_so(server):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    assert "TLS" in refuse(server, hello, 400).body
    for i in (1, 5, 6):
        with server.raw() as client:
            server.send_apart(client, hello[:i], hello[i:])
            assert "TLS" in read_refusal(client, 400).body


# ---- too long, too late, not implemented ----

def head_of(size):
    """A good handshake of exactly that many bytes."""
    bare = len(handshake("/echo", "X: "))
    return handshake("/echo", "X: " + "x" * (size - bare))


def test_max_head_counts_to_the_byte_9112_3(site):
    server = site(max_head=1000)
    with server.raw() as client:
        check_upgrades(client, head_of(1000))
    with server.raw() as client:
        server.send_apart(client, head_of(1000)[:999], head_of(1000)[999:])
        assert client.response().status == 101
    assert "max_head" in refuse(server, head_of(1001), 431).body


@pytest.mark.parametrize("data", [
    b"GET /echo HTTP/1.1\r\nX: " + b"a" * 20000, request("GET /echo HTTP/1.1", HOST, *["X: y"] * 5000),
    b"GET /echo HTTP/1.1\r\n" + b"a" * 100000], ids=["value", "many", "long"])
def test_a_head_over_16_kib_is_431(server, data):
    refuse(server, data, 431)


@pytest.mark.parametrize("data", [b"GET /" + b"a" * 20000, b"\r\n\r\nGET /" + b"a" * 20000, b"X" * 20000])
def test_a_request_line_over_16_kib_is_414_9112_3(server, data):
    refuse(server, data, 414)


def test_an_oversize_head_that_comes_by_and_by_is_431(site):
    server = site(max_head=1000)
    with server.raw() as client:
        server.send_apart(client, b"GET /echo HTTP/1.1\r\n", *[b"X: 67890123\r\n"] * 75, b"X: 8")
        client.send(b"9")  # the thousandth byte, and no end
        read_refusal(client, 431)


def test_a_dribbled_line_without_an_end_is_414(site):
    server = site(max_head=512)
    with server.raw() as client:
        server.send_apart(client, *[b"a"] * 512)
        read_refusal(client, 414)


def test_too_many_headers_are_431(server):
    refuse(server, get(*["X: y"] * 256), 431)
    refuse(server, get(*["X: y"] * 255), 426)


@pytest.mark.parametrize("begun", [b"", b"G", HANDSHAKE[:50], HANDSHAKE[:-1], b"\r\n"],
                         ids=["nothing", "a byte", "half a head", "all but a byte", "an empty line"])
def test_a_head_that_does_not_come_in_time_is_408(site, begun):
    server = site(handshake_timeout=0.3)
    with server.raw() as client:
        client.send(begun)
        assert "handshake_timeout" in read_refusal(client, 408).body


def test_dribbling_does_not_extend_the_time_for_a_head(site):
    server = site(handshake_timeout=0.3)
    with server.raw() as client:
        server.send_apart(client, b"GET /echo HTTP/1.1\r\nX: ")
        for _ in range(10_000):
            server.send_apart(client, b"x")
            if server.metrics()['tidewire_http_responses_total{class="4xx"}']:
                break
        read_refusal(client, 408)


@pytest.mark.parametrize("data", [
    request("BREW /echo HTTP/1.1", HOST), request("get /echo HTTP/1.1", HOST), request("GETX /echo HTTP/1.1", HOST),
    request("CONNECT localhost:80 HTTP/1.1", HOST),
    request("POST /echo HTTP/1.1", HOST, "Transfer-Encoding: gzip, chunked"),
    request("POST /echo HTTP/1.1", HOST, "Transfer-Encoding: gzip", "Transfer-Encoding: chunked")],
    ids=["brew", "lower case", "longer", "connect", "coding", "codings"])
def test_what_is_not_implemented_is_501_9110_15_6_2(server, data):
    refuse(server, data, 501)


@pytest.mark.parametrize("data", [
    request("GET /echo HTTP/2.0", HOST), request("GET /echo HTTP/3", HOST), request("GET /echo HTTP/0.9", HOST),
    request("GET /echo RTSP/1.0", HOST), b"GET /echo\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    request("GET /echo HTTP/1.9", HOST), request("GET /echo HTTP/11", HOST), b"HTTP/1.1 200 OK\r\n\r\n"],
    ids=["2.0", "3", "0.9", "rtsp", "no version", "h2 preface", "1.9", "11", "an answer"])
def test_another_version_is_505_9110_15_6_6(server, data):
    refuse(server, data, 505)


# ---- max_connections ----

def test_beyond_max_connections_503_and_service_again_once_one_leaves(serve):
    server = serve(SITE, max_connections=2)
    with server.raw("/echo") as first, server.raw("/echo") as second:
        for data in (b"", HANDSHAKE, HANDSHAKE[:10]):
            refuse(server, data, 503)
            server.wait_metric("tidewire_connections", 2)
        assert server.metrics()['tidewire_connections_refused_total{reason="full"}'] == 3
        first.close()
        server.wait_metric("tidewire_connections", 1)
        with server.raw() as third:
            check_upgrades(third)
            refuse(server, HANDSHAKE, 503)
        second.send_frame(TEXT, "undisturbed")
        assert second.text() == "undisturbed"


def test_a_refused_client_that_stays_takes_no_place_from_others(serve):
    server = serve(SITE, max_connections=1)
    with server.raw("/echo") as first, server.raw() as refused:
        read_refusal(refused, 503)
        first.close()
        server.wait_metric("tidewire_websockets", 0)
        with server.raw() as next_one:
            check_upgrades(next_one)


# ---- what a request says reaches the script ----

def told(client, expression):
    client.send_frame(TEXT, expression)
    return client.text()


def tell(server, data):
    """An upgraded client of one of the routes that evaluate expressions."""
    client = server.raw()
    client.send(data)
    assert client.response().status == 101
    return client


def test_request_line_fields(server):
    with tell(server, handshake("/tell?a=1&b=x+y%21&a=2&flag&=void&%C3%A9=%c3%a8&bad=%zz&e=")) as client:
        assert told(client, "req.method") == "GET"
        assert told(client, "req.path") == "/tell"
        assert told(client, "req.query_string") == "a=1&b=x+y%21&a=2&flag&=void&%C3%A9=%c3%a8&bad=%zz&e="
        for name, value in {"a": "1", "b": "x y!", "flag": "", "": "void", "é": "è", "bad": "%zz", "e": "",
                            "missing": "nil"}.items():
            assert told(client, f"req.query['{name}']") == value
        assert told(client, "req.remote_address") == "127.0.0.1"


def test_a_request_without_a_query(server):
    for target in ("/tell", "/tell?", "http://example.org/tell"):
        with tell(server, handshake(target)) as client:
            assert told(client, "#req.query_string") == "0"
            assert told(client, "next(req.query)") == "nil"
            assert told(client, "req.path") == "/tell"


def test_headers_are_case_insensitive_and_repeated_ones_joined(server):
    lines = ["X-One: 1", "x-MANY: a", "X-Between: b", "X-Many:  c, d \t", "X-many:", "X-Empty:"]
    with tell(server, handshake("/tell", *lines)) as client:
        for name in ("X-One", "x-one", "X-ONE"):
            assert told(client, f"req.headers['{name}']") == "1"
        assert told(client, "req.headers['X-MANY']") == "a, c, d, "
        assert told(client, "req.headers.host") == "localhost"
        assert told(client, "req.headers['Sec-WebSocket-Key']") == KEY
        assert told(client, "req.headers['x-empty']") == ""
        assert told(client, "req.headers['x-none']") == "nil"


def test_the_request_is_also_in_ws_and_stays_readable(server):
    with tell(server, handshake("/tell/room/a/b?q=1")) as client:
        assert told(client, "ws.request.path .. ws.request.params.room .. ws.request.query.q") == "/tell/room/a/ba1"
        assert told(client, "(function() collectgarbage() return req.params.user end)()") == "b"


@pytest.mark.parametrize("path, params", [
    ("/tell/room/lobby/ann", {"room": "lobby", "user": "ann"}),
    ("/tell/room/a%2Fb/%C3%A9+x", {"room": "a/b", "user": "é+x"}),
    ("/tell//room/lobby//ann/", {"room": "lobby", "user": "ann"}),
    ("/t%65ll/%72oom/x/y", {"room": "x", "user": "y"}),
    ("/tell/any/thing/end", {"*": "thing", "room": "nil"}),
    ("/tell/any/%2A/end", {"*": "*"}),
    ("/tell/rest/one", {"**": "one"}),
    ("/tell/rest/one/two/three", {"**": "one/two/three"}),
    ("/tell/rest/one%20two/%3Fx", {"**": "one two/?x"}),
])
def test_params_of_the_route(server, path, params):
    with tell(server, handshake(path)) as client:
        for name, value in params.items():
            assert told(client, f"req.params['{name}']") == value


def test_a_percent_encoded_path_reaches_its_route(server):
    with tell(server, handshake("/tell/gr%C3%B6%c3%9fe")) as client:
        assert client.text() == "constant"
    with tell(server, handshake("/tell/%61/b")) as client:
        assert client.text() == "two components"
    refuse(server, handshake("/tell/a%2Fb"), 404)  # one component, which is no constant here


# ---- other sockets ----

def connect(family, address):
    sock = socket.socket(family)
    sock.settimeout(PATIENCE)
    sock.connect(address)
    return Raw(sock)


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
        return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv6(serve):
    server = serve(SITE, listen="[::1]:0")
    assert server.address == f"[::1]:{server.port}"
    with connect(socket.AF_INET6, ("::1", server.port)) as client:
        client.upgrade("/tell")
        assert told(client, "req.remote_address") == "::1"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv4_client_of_an_ipv6_socket_has_its_ipv4_address(serve):
    server = serve(SITE, listen="[::]:0")
    with server.raw("/tell") as client:
        assert told(client, "req.remote_address") == "127.0.0.1"


def test_unix_socket(serve, tmp_path):
    path = tmp_path / "web.sock"
    server = serve(SITE, listen=f"unix:{path}")
    assert server.address == f"unix:{path}"
    with connect(socket.AF_UNIX, str(path)) as client, connect(socket.AF_UNIX, str(path)) as other:
        client.upgrade("/tell")
        assert told(client, "req.remote_address") == "unix:"
        other.send(get("X : a"))
        read_refusal(other, 400)
    assert server.stop() == 0
    assert not path.exists()


def test_several_addresses_at_once(serve, tmp_path):
    path = tmp_path / "web.sock"
    server = serve(SITE, listen=f"127.0.0.1:0,unix:{path}")
    with server.raw("/tell") as tcp, connect(socket.AF_UNIX, str(path)) as unix:
        unix.upgrade("/tell")
        assert told(tcp, "req.remote_address") == "127.0.0.1"
        assert told(unix, "req.remote_address") == "unix:"
