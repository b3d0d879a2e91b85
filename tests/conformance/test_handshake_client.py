# SPDX-License-Identifier: MIT
"""The opening handshake as a client sends it, and what it makes of the answer (RFC 6455, 4.1).

The rule that a client has one connection at a time in CONNECTING state for an address (4.1) is for pages in a browser;
a server that connects to many peers behind one address would wait for the slowest, so it is not asked for here."""
import base64

import pytest

from peer import BINARY, CLOSE, PING, PONG, TEXT, Frame, accept_of, close_payload, encode


def check_open(call, data, early=b""):
    call.peer.send(data + early)
    call.expect_open()
    call.peer.echo(TEXT, "open")
    call.peer.finish()


# ---- the request ----

def test_4_1_the_request_has_what_it_needs_once(call):
    one = call(path="/chat?room=1&x=%20")
    request = one.request
    assert request.start == "GET /chat?room=1&x=%20 HTTP/1.1"
    assert request.one("host") == f"127.0.0.1:{one.port}"
    assert request.one("upgrade").lower() == "websocket"
    assert "upgrade" in [token.strip().lower() for token in request.one("connection").split(",")]
    assert request.one("sec-websocket-version") == "13"
    assert len(base64.b64decode(request.one("sec-websocket-key"), validate=True)) == 16
    for name in ("sec-websocket-protocol", "sec-websocket-extensions", "sec-websocket-accept", "content-length",
                 "transfer-encoding", "expect"):
        assert not request.all(name), name
    check_open(one, one.response())


def test_4_1_an_empty_path_is_a_slash(call):
    assert call(path="").request.start == "GET / HTTP/1.1"


def test_4_1_each_key_is_fresh(call):
    keys = [call().request.one("sec-websocket-key") for _ in range(30)]
    nonces = [base64.b64decode(key, validate=True) for key in keys]
    assert len(set(nonces)) == 30
    for octet in range(16):
        assert len({nonce[octet] for nonce in nonces}) > 15, "no counter and no constant in any place"


def test_4_1_nothing_is_sent_before_the_answer(call):
    one = call()
    assert not one.peer.buffer
    one.peer.send_apart(one.response()[i:i + 1] for i in range(len(one.response()) - 1))
    assert not one.peer.readable()
    one.peer.send(one.response()[-1:])
    one.expect_open()
    one.peer.finish()


@pytest.mark.parametrize("names", [["chat.v1"], ["chat.v2", "chat.v1"], ["a!#$%&'*+-.^_`|~9"]], ids=str)
def test_4_1_the_subprotocols_are_offered_in_order(call, names):
    one = call(protocols=names)
    assert [name.strip() for name in one.request.joined("sec-websocket-protocol").split(",")] == names
    one.peer.send(one.response(sec_websocket_protocol=names[-1]))
    assert one.expect_open()["protocol"] == names[-1]
    one.peer.finish()


def test_4_1_a_server_may_choose_no_subprotocol(call):
    one = call(protocols=["chat.v1"])
    one.peer.send(one.response())
    assert not one.expect_open().get("protocol")
    one.peer.finish()


# ---- answers that open ----

OPENING = {
    "as it should be": {},
    "another reason": {"start": "HTTP/1.1 101 Whatever"},
    "websocket in capitals": {"upgrade": "WEBSOCKET"},
    "upgrade in capitals": {"connection": "UPGRADE"},
    "a list": {"connection": "keep-alive, Upgrade"},
    "two connection headers": {"connection": ["keep-alive", "Upgrade"]},
    "other headers": {"server": "x", "date": "Mon, 23 Nov 2026 00:00:00 GMT", "set_cookie": ["a=b", "c=d"]},
    "a long head": {"x_long": "x" * 6000},
}


@pytest.mark.parametrize("chop", [None, 1])
@pytest.mark.parametrize("answer", OPENING.values(), ids=OPENING)
def test_4_1_a_sound_answer_opens_the_connection(call, answer, chop):
    one = call()
    one.peer.send(one.response(**answer), chop)
    one.expect_open()
    one.peer.echo(TEXT, "open")
    one.peer.finish()


def test_4_1_header_names_have_no_case(call):
    one = call()
    data = one.response().replace(b"sec-websocket-accept", b"SEC-WebSocket-ACCEPT").replace(b"upgrade:", b"UPGRADE:")
    check_open(one, data)


def test_4_1_white_space_around_the_accept_is_ignored(call):
    """Step 4: "(but ignoring any leading and trailing whitespace)"."""
    one = call()
    check_open(one, one.response(sec_websocket_accept=f" \t {accept_of(one.request.one('sec-websocket-key'))} \t"))


@pytest.mark.parametrize("frames", [1, 5, 1000])
def test_4_1_frames_in_the_packet_of_the_answer_are_taken(call, frames):
    one = call()
    one.peer.send(one.response() + b"".join(encode(PING, str(i)) for i in range(frames)))
    one.expect_open()
    for i in range(frames):
        assert one.peer.frame() == Frame(PONG, str(i).encode())
    one.peer.finish()


def test_4_1_a_message_and_half_a_frame_in_the_packet_of_the_answer(call):
    one = call()
    half = encode(BINARY, bytes(range(200)))
    one.peer.send(one.response() + encode(TEXT, "early") + half[:50])
    one.expect_open()
    assert one.peer.message() == (TEXT, b"early")
    one.peer.send(half[50:])
    assert one.peer.message() == (BINARY, bytes(range(200)))
    one.peer.finish()


def test_4_1_a_close_in_the_packet_of_the_answer_is_answered(call):
    one = call()
    one.peer.send(one.response() + encode(CLOSE, close_payload(1013)))
    one.expect_open()
    one.peer.expect_close(1013)


# ---- answers that do not ----

@pytest.mark.parametrize("status", [
    "200 OK", "204 No Content", "301 Moved Permanently", "302 Found", "307 Temporary Redirect", "400 Bad Request",
    "401 Unauthorized", "403 Forbidden", "404 Not Found", "426 Upgrade Required", "500 Internal Server Error",
    "503 Service Unavailable"])
def test_4_1_another_status_than_101_fails_the_connection(call, status):
    """Step 1 would let a client follow redirects and log in; Tidewire does neither: nobody else is connected to."""
    one = call()
    one.peer.send(one.response(f"HTTP/1.1 {status}", location=f"http://127.0.0.1:{one.port}/else", content_length="0"))
    one.expect_refusal()


WRONG_ACCEPTS = {
    "of another key": lambda key: accept_of("dGhlIHNhbXBsZSBub25jZQ=="),
    "empty": lambda key: "",
    "the key": lambda key: key,
    "cut": lambda key: accept_of(key)[:-1],
    "in other case": lambda key: accept_of(key).swapcase(),
    "longer": lambda key: accept_of(key) + "=",
    "quoted": lambda key: f'"{accept_of(key)}"',
    "twice in one": lambda key: f"{accept_of(key)}, {accept_of(key)}",
}


@pytest.mark.parametrize("wrong", WRONG_ACCEPTS.values(), ids=WRONG_ACCEPTS)
def test_4_1_a_wrong_accept_fails_the_connection(call, wrong):
    one = call()
    one.peer.send(one.response(sec_websocket_accept=wrong(one.request.one("sec-websocket-key"))))
    one.expect_refusal()


def test_11_3_3_a_second_accept_fails_the_connection(call):
    """"The |Sec-WebSocket-Accept| header MUST NOT appear more than once in an HTTP response.\""""
    one = call()
    right = accept_of(one.request.one("sec-websocket-key"))
    one.peer.send(one.response(sec_websocket_accept=[right, right]))
    one.expect_refusal()


REFUSED = {
    "no upgrade": {"upgrade": None},
    "another upgrade": {"upgrade": "h2c"},
    "upgrade to websockets": {"upgrade": "websockets"},
    "upgrade to several": {"upgrade": "websocket, h2c"},  # step 2: "contains a value that is not [...] "websocket""
    "no connection": {"connection": None},
    "connection without upgrade": {"connection": "keep-alive"},
    "upgrade as part of a word": {"connection": "Upgrades"},
    "no accept": {"sec_websocket_accept": None},
    "HTTP/1.0": {"start": "HTTP/1.0 101 Switching Protocols"},
    "HTTP/2.0": {"start": "HTTP/2.0 101 Switching Protocols"},
    "no status": {"start": "HTTP/1.1"},
    "another protocol": {"start": "ICY 101 Switching Protocols"},
    "an extension": {"sec_websocket_extensions": "x-unknown"},
    "permessage-deflate": {"sec_websocket_extensions": "permessage-deflate"},
    "a subprotocol": {"sec_websocket_protocol": "chat.v1"},
}


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED)
def test_4_1_an_answer_with_a_fault_fails_the_connection(call, answer):
    """Steps 2 to 6: what was not asked for is a fault too."""
    one = call()
    one.peer.send(one.response(**answer))
    one.expect_refusal()


@pytest.mark.parametrize("choice", ["chat.v3", "CHAT.V1", "chat.v1, chat.v2", "", ["chat.v1", "chat.v2"],
                                    ["chat.v1", "chat.v1"]], ids=str)
def test_4_1_a_subprotocol_that_was_not_offered_fails_the_connection(call, choice):
    """Step 6; and one only: 11.3.4 wants the header at most once in an answer."""
    one = call(protocols=["chat.v1", "chat.v2"])
    one.peer.send(one.response(sec_websocket_protocol=choice))
    one.expect_refusal()


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 101", b"\r\n\r\n", b"\x81\x05hello", b"\0" * 100,
                                  b"220 mail.example.com ESMTP\r\n"],
                         ids=["nothing", "half a line", "empty lines", "a frame", "nul", "mail"])
def test_4_1_an_end_without_an_answer_fails_the_connection(call, data):
    one = call()
    one.peer.send(data)
    one.peer.sock.shutdown(1)
    assert one.outcome()["open"] is False


def test_4_1_an_end_within_the_answer_fails_the_connection(call):
    whole = call().response()
    for at in range(0, len(whole) - 1, 9):
        one = call()
        one.peer.send(one.response()[:at])
        one.peer.sock.shutdown(1)
        assert one.outcome()["open"] is False


def test_4_1_an_endless_answer_fails_the_connection(call):
    one = call()
    one.peer.send(one.response()[:-2] + b"x-endless: " + b"x" * (1 << 20))
    assert one.outcome()["open"] is False


def test_4_1_no_answer_at_all_fails_the_connection_in_the_end(call):
    one = call(timeout=0.5)
    one.expect_refusal()
