# SPDX-License-Identifier: MIT
"""The opening handshake as a server sees it (RFC 6455, 4.2 and 4.4; what a client has to send is in 4.1)."""
import base64
import os

import pytest

from peer import (BINARY, CLOSE, KEY, PING, PONG, TEXT, Frame, accept_of, close_payload, encode, open_to_server, reach,
                  request)


def check_open(peer):
    """The handshake is accepted, and frames go both ways."""
    head = peer.head()
    assert head.status == 101, head.start
    assert head.one("upgrade").lower() == "websocket"
    assert head.one("connection").lower() == "upgrade"
    peer.echo(TEXT, "open")
    peer.finish()
    return head


def check_refused(peer, status):
    """An answer with this status, whole, and the end of the connection: no frame is looked at."""
    head = peer.head()
    assert head.status == status, head.start
    assert not head.all("sec-websocket-accept")
    peer.take(int(head.one("content-length")))
    peer.expect_end()
    return head


# ---- accepted (4.2.1, 4.2.2) ----

def test_4_2_2_the_answer_has_each_header_once_and_no_other_of_the_protocol(raw):
    raw.send(request())
    head = check_open(raw)
    assert head.start.split(" ")[:2] == ["HTTP/1.1", "101"]
    assert [name for name, _ in head.fields if name.startswith("sec-websocket")] == ["sec-websocket-accept"]


def test_1_3_the_accept_of_the_sample_nonce(raw):
    raw.send(request(sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ=="))
    assert check_open(raw).one("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("nonce", [bytes(16), b"\xff" * 16, bytes(range(16)), b"\xfb\xef\xbe" * 5 + b"\xff"],
                         ids=bytes.hex)
def test_4_2_2_the_accept_is_made_from_the_key_as_it_came(raw, nonce):
    key = base64.b64encode(nonce).decode()
    raw.send(request(sec_websocket_key=key))
    assert check_open(raw).one("sec-websocket-accept") == accept_of(key)


def test_4_2_2_random_keys(tidewire):
    for _ in range(50):
        key = base64.b64encode(os.urandom(16)).decode()
        with reach(tidewire()) as peer:
            peer.send(request(sec_websocket_key=key))
            assert peer.head().one("sec-websocket-accept") == accept_of(key)


ACCEPTED = {
    "names in other cases": lambda: request().replace(b"upgrade:", b"UPGRADE:").replace(b"sec-web", b"Sec-WEB"),
    "websocket in capitals": lambda: request(upgrade="WebSocket"),
    "upgrade in capitals": lambda: request(connection="UPGRADE"),
    "keep-alive too": lambda: request(connection="keep-alive, Upgrade"),
    "a list without spaces": lambda: request(connection="keep-alive,upgrade,x"),
    "two connection headers": lambda: request(connection=["keep-alive", "Upgrade"]),
    "empty elements": lambda: request(connection=", Upgrade,"),
    "several protocols to upgrade to": lambda: request(upgrade="h2c, websocket"),
    "spaces around": lambda: request(sec_websocket_key=f"  {KEY} \t", upgrade="  websocket  "),
    "a query": lambda: request("/echo?a=b&c"),
    "the absolute form": lambda: request("http://localhost/echo"),
    "a port": lambda: request(host="localhost:8080"),
    "an IPv6 host": lambda: request(host="[::1]:8080"),
    "an origin": lambda: request(origin="http://localhost"),
    "an unknown header": lambda: request(x_unknown="yes"),
    "cookies": lambda: request(cookie="a=b; c=d"),
    "a long head": lambda: request(x_long="x" * 8000),
}


@pytest.mark.parametrize("chop", [None, 1])
@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_4_2_1_a_sound_handshake_is_accepted(raw, data, chop):
    raw.send(data(), chop if len(data()) < 1000 else None)
    check_open(raw)


def test_4_2_1_a_handshake_octet_by_octet(raw):
    data = request()
    raw.send_apart(data[i:i + 1] for i in range(len(data)))
    check_open(raw)


# ---- refused (4.2.1) ----
# "The server MUST stop processing the client's handshake and return an HTTP response with an appropriate error code
# (such as 400 Bad Request)". Which code is the server's choice; these are Tidewire's.

def replaced(old, new):
    data = request().replace(old, new)
    assert data != request()
    return data


REFUSED = {
    "POST": (400, lambda: replaced(b"GET", b"POST")),
    "PUT": (400, lambda: replaced(b"GET", b"PUT")),
    "HTTP/1.0": (400, lambda: replaced(b"HTTP/1.1", b"HTTP/1.0")),
    "HTTP/0.9": (505, lambda: replaced(b" HTTP/1.1", b"")),
    "HTTP/2.0": (505, lambda: replaced(b"HTTP/1.1", b"HTTP/2.0")),
    "a fragment": (400, lambda: request("/echo#top")),
    "no path": (400, lambda: request("echo")),
    "no host": (400, lambda: request(host=None)),
    "two hosts": (400, lambda: request(host=["localhost", "localhost"])),
    "a malformed host": (400, lambda: request(host="local host")),
    "no connection": (400, lambda: request(connection=None)),
    "connection without upgrade": (400, lambda: request(connection="keep-alive")),
    "connection close": (400, lambda: request(connection="close")),
    "upgrade as part of a word": (400, lambda: request(connection="Upgrades")),
    "no upgrade": (426, lambda: request(upgrade=None)),
    "upgrade to something else": (426, lambda: request(upgrade="h2c")),
    "upgrade to websockets": (426, lambda: request(upgrade="websockets")),
    "no key": (400, lambda: request(sec_websocket_key=None)),
    "two keys": (400, lambda: request(sec_websocket_key=[KEY, KEY])),
    "an empty key": (400, lambda: request(sec_websocket_key="")),
    "a key of 15 bytes": (400, lambda: request(sec_websocket_key=base64.b64encode(bytes(15)).decode())),
    "a key of 17 bytes": (400, lambda: request(sec_websocket_key=base64.b64encode(bytes(17)).decode())),
    "a key with more behind it": (400, lambda: request(sec_websocket_key=KEY + "AAAA")),
    "a key without padding": (400, lambda: request(sec_websocket_key=KEY[:-2])),
    "a key of other signs": (400, lambda: request(sec_websocket_key="-_" + KEY[2:])),
    "a key with a space": (400, lambda: request(sec_websocket_key=KEY[:4] + " " + KEY[4:])),
    "an unknown path": (404, lambda: request("/nowhere")),
    "a body announced": (400, lambda: request(content_length="0")),
    "a body in chunks": (400, lambda: request(transfer_encoding="chunked")),
    "a space before a colon": (400, lambda: replaced(b"upgrade:", b"upgrade :")),
    "a folded line": (400, lambda: replaced(b"websocket\r\n", b"\r\n websocket\r\n")),
    "bare line feeds": (400, lambda: request().replace(b"\r\n", b"\n")),
}


@pytest.mark.parametrize("status, data", REFUSED.values(), ids=REFUSED)
def test_4_2_1_a_handshake_with_a_fault_is_refused(raw, status, data):
    raw.send(data())
    check_refused(raw, status)


@pytest.mark.parametrize("frame", [
    encode(TEXT, "x", mask=bytes(4)), encode(CLOSE, close_payload(1000), mask=bytes(4)), b"\x81" * 100_000,
    b"GET /echo HTTP/1.1\r\n"], ids=["text", "close", "rubbish", "request"])
@pytest.mark.parametrize("data", [
    lambda: request(sec_websocket_key="short"), lambda: request(sec_websocket_version="12"),
    lambda: request("/nowhere"), lambda: request("/closed")], ids=["key", "version", "path", "should_upgrade"])
def test_4_2_2_bytes_behind_a_refused_handshake_are_not_looked_at(raw, data, frame):
    """And the answer arrives whole: unread input does not become a reset."""
    raw.send(data() + frame)
    head = raw.head()
    assert head.status in (400, 403, 404, 426), head.start
    raw.take(int(head.one("content-length")))
    raw.expect_end()


# ---- the version (4.4) ----

@pytest.mark.parametrize("version", [
    None, "", "0", "8", "12", "14", "113", "255", "256", "13.0", "+13", "013", "thirteen", "13, 8", "8, 13",
    ["13", "8"], ["8", "13"], ["13", "13"]], ids=str)
def test_4_4_another_version_is_answered_with_the_one_that_is_spoken(raw, version):
    """One value, once: the list is for the server's answer (4.1, 11.3.5)."""
    raw.send(request(sec_websocket_version=version))
    assert check_refused(raw, 426).one("sec-websocket-version") == "13"


# ---- subprotocols (4.1, 4.2.2, 11.3.4) ----

@pytest.mark.parametrize("offer, choice", [
    ("chat.v1", "chat.v1"), ("chat.v2", "chat.v2"), ("chat.v1, chat.v2", "chat.v2"), ("other, chat.v1", "chat.v1"),
    (["other", "chat.v1"], "chat.v1"), (["chat.v1", "chat.v2, other"], "chat.v2"), (None, None), ("other", None),
    ("CHAT.V1", None), ("chat.v", None), ("chat.v11", None)], ids=str)
def test_4_2_2_the_subprotocol_is_one_of_those_that_were_offered_or_none(raw, offer, choice):
    """Names are compared as they are: 4.1 says nothing of case, and 11.5 registers strings."""
    raw.send(request("/choosy", sec_websocket_protocol=offer))
    assert check_open(raw).all("sec-websocket-protocol") == ([choice] if choice else [])


def test_4_2_2_a_route_without_subprotocols_chooses_none(raw):
    raw.send(request(sec_websocket_protocol="chat.v1"))
    assert not check_open(raw).all("sec-websocket-protocol")


@pytest.mark.parametrize("offer", ["", ",", "a b", "a/b", "a;b", '"a"', "a, b c", "caf\xe9", "(a)", "a@b",
                                   ["a", "b c"]], ids=str)
def test_4_1_a_malformed_offer_of_subprotocols_is_refused(raw, offer):
    """Each is a token (4.1, item 10)."""
    raw.send(request("/choosy", sec_websocket_protocol=offer))
    check_refused(raw, 400)


# ---- extensions (9.1) ----

@pytest.mark.parametrize("offer", [
    "x-unknown", "x-unknown; a", 'x-unknown; a=1; b="c"', "x-one, x-two; a", ["x-one", "x-two"], "x-unknown;a",
    "x-unknown ; a = 1", "permessage-deflate", "x;a;a"], ids=str)
def test_9_1_extensions_that_are_not_there_are_not_agreed_to(raw, offer):
    raw.send(request(sec_websocket_extensions=offer))
    assert not check_open(raw).all("sec-websocket-extensions")


# 9.1: "If a value is received by either the client or the server during negotiation that does not conform to the ABNF
# below, the recipient of such malformed data MUST immediately _Fail the WebSocket Connection_."
MALFORMED = ["", ",", "a;;b", ";", "a;", "a;=1", "a;b=", "a b", "a;b c", 'a;b="', 'a;b="c', 'a;b="c d"', 'a;b=""',
             "a=b", "(a)", "a;b=c=d", "a, b;;c", '"a"', "a;b={}", "a/b", "caf\xe9", "permessage-deflate;",
             "permessage-deflate; client_max_window_bits="]


@pytest.mark.parametrize("offer", MALFORMED)
def test_9_1_a_malformed_offer_of_extensions_is_refused(raw, offer):
    raw.send(request(sec_websocket_extensions=offer))
    check_refused(raw, 400)


def test_9_1_one_malformed_header_of_several_is_enough(raw):
    raw.send(request(sec_websocket_extensions=["x-good", "x-bad;;"]))
    check_refused(raw, 400)


# ---- the first frames (4.1) ----
# "Once the client's opening handshake has been sent, the client MUST wait for a response from the server before sending
# any further data." What a server does with a client that does not wait is left open; Tidewire takes the frames after
# its 101.

@pytest.mark.parametrize("frames", [1, 3, 1000])
def test_4_1_frames_in_the_packet_of_the_handshake_are_answered_after_it(raw, frames):
    raw.send(request() + b"".join(encode(PING, str(i), mask=b"mask") for i in range(frames)))
    assert raw.head().status == 101
    for i in range(frames):
        assert raw.frame() == Frame(PONG, str(i).encode())
    raw.finish()


def test_4_1_half_a_frame_in_the_packet_of_the_handshake(raw):
    data = encode(BINARY, bytes(range(100)), mask=b"mask")
    for at in range(1, len(data)):
        with reach(raw.server) as peer:
            peer.send(request() + data[:at])
            assert peer.head().status == 101
            peer.send(data[at:])
            assert peer.message() == (BINARY, bytes(range(100)))


def test_4_1_a_faulty_frame_in_the_packet_of_the_handshake_fails_the_websocket_not_the_handshake(raw):
    raw.send(request() + encode(3, "x", mask=b"mask"))
    assert raw.head().status == 101
    raw.expect_close(1002)


def test_4_2_2_several_websockets_to_one_path(tidewire):
    peers = [open_to_server(tidewire()) for _ in range(20)]
    for i, peer in enumerate(peers):
        peer.echo(TEXT, str(i))
    for peer in peers:
        peer.finish()
