# SPDX-License-Identifier: MIT
"""How a WebSocket ends (RFC 6455, 5.5.1, 7): codes, reasons, and what comes after a Close."""
import pytest

from cases import LONG, as_client, as_server, in_every_way
from peer import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame, close_payload
from test_utf8 import INVALID as NOT_UTF8
from test_utf8 import VALID as UTF8

# 1012 to 1014 are not in the RFC but in IANA's registry, as 7.4.2 provides for. 1010 is for clients to send; the RFC
# does not say that a server's is a fault, and Tidewire answers it like any other.
VALID = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3001, 3999, 4000, 4001, 4999]
BELOW = [0, 1, 500, 999]
NEVER_SENT = [1005, 1006, 1015]  # 7.4.1: "MUST NOT be set as a status code in a Close control frame by an endpoint"
UNASSIGNED = [1004, 1016, 1100, 1999, 2000, 2999]  # 7.4.2: reserved for the protocol, without a meaning so far
ABOVE = [5000, 5001, 49152, 65535]
REASONS = [0, 1, 2, 121, 122, 123]


# ---- answered (5.5.1) ----

@in_every_way
def test_5_5_1_a_close_without_a_payload_is_answered_without_one(ws, how):
    ws.send_in(how, ws.make(CLOSE))
    ws.expect_close(None)


@in_every_way
@pytest.mark.parametrize("code", VALID)
def test_5_5_1_a_close_is_answered_with_its_code(ws, code, how):
    ws.send_in(how, ws.make(CLOSE, close_payload(code)))
    ws.expect_close(code)


@pytest.mark.parametrize("code", VALID)
def test_5_5_1_a_close_with_a_reason_is_answered_with_its_code(ws, code):
    ws.echo(TEXT, "before")
    ws.send_frame(CLOSE, close_payload(code, b"low tide"))
    ws.expect_close(code)


@in_every_way
@pytest.mark.parametrize("size", REASONS)
def test_5_5_1_a_reason_may_have_123_bytes(ws, size, how):
    ws.send_in(how, ws.make(CLOSE, close_payload(1000, b"*" * size)))
    ws.expect_close(1000)


@pytest.mark.parametrize("reason", [data for data in UTF8.values() if len(data) <= 123],
                         ids=[name for name, data in UTF8.items() if len(data) <= 123])
def test_5_5_1_a_reason_is_any_utf8(ws, reason):
    ws.send_frame(CLOSE, close_payload(3000, reason))
    ws.expect_close(3000)


@pytest.mark.long
@pytest.mark.parametrize("codes", [range(1000, 1015), range(3000, 4000), range(4000, 5000)], ids=str)
def test_7_4_2_every_code_that_may_be_sent_is_answered(connect, codes):
    for code in codes:
        if code not in (1004, 1005, 1006):
            ws = connect()
            ws.send_frame(CLOSE, close_payload(code))
            ws.expect_close(code)


# ---- refused (5.5.1, 7.4) ----

@in_every_way
@pytest.mark.parametrize("octet", [b"\x00", b"\x03", b"\xe8", b"\xff"], ids=bytes.hex)
def test_5_5_1_a_close_with_one_byte_fails_the_connection(ws, octet, how):
    """"If there is a body, the first two bytes of the body MUST be a 2-byte unsigned integer"."""
    ws.expect_failure(1002, ws.make(CLOSE, octet), how=how)


def check_code(ws, code, how):
    ws.expect_failure(1002, ws.make(CLOSE, close_payload(code)), ws.make(TEXT, "not answered"), how=how)


@in_every_way
@pytest.mark.parametrize("code", BELOW)
def test_5_5_1_close_with_a_code_below_1000_fails_the_connection(ws, code, how):
    """7.4.2: "Status codes in the range 0-999 are not used.\""""
    check_code(ws, code, how)


@in_every_way
@pytest.mark.parametrize("code", NEVER_SENT)
def test_7_4_1_close_with_a_code_that_is_never_sent_fails_the_connection(ws, code, how):
    check_code(ws, code, how)


@in_every_way
@pytest.mark.parametrize("code", UNASSIGNED)
def test_7_4_2_close_with_a_code_that_is_not_assigned_fails_the_connection(ws, code, how):
    """Open to reading: an extension or a later version could define it, but none was agreed upon."""
    check_code(ws, code, how)


@in_every_way
@pytest.mark.parametrize("code", ABOVE)
def test_7_4_2_close_with_a_code_above_4999_fails_the_connection(ws, code, how):
    """The RFC has no range for them."""
    check_code(ws, code, how)


@pytest.mark.parametrize("code", [0, 999, 1005, 2999, 5000])
def test_7_4_2_a_reason_does_not_make_a_code_valid(ws, code):
    ws.expect_failure(1002, ws.make(CLOSE, close_payload(code, b"well reasoned")))


@pytest.mark.long
@pytest.mark.parametrize("codes", [range(1000), range(1015, 3000), range(5000, 65536, 97)], ids=str)
def test_7_4_2_every_code_that_may_not_be_sent_fails_the_connection(connect, codes):
    for code in codes:
        ws = connect()
        ws.send_frame(CLOSE, close_payload(code))
        ws.expect_close(1002)


@pytest.mark.parametrize("code", [1000, 4000])
@pytest.mark.parametrize("reason", NOT_UTF8.values(), ids=NOT_UTF8)
def test_5_5_1_a_reason_that_is_not_utf8_fails_the_connection(ws, reason, code):
    ws.expect_failure(1007, ws.make(CLOSE, close_payload(code, b"because " + reason)))


@pytest.mark.parametrize("reason", [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x8c", b"x" * 122 + b"\xc3"], ids=bytes.hex)
def test_5_5_1_a_reason_that_ends_within_a_character_fails_the_connection(ws, reason):
    ws.expect_failure(1007, ws.make(CLOSE, close_payload(1000, reason)))


@pytest.mark.parametrize("size", [124, 125, 1000, 65536])
def test_5_5_a_close_over_125_bytes_fails_the_connection(ws, size):
    ws.expect_failure(1002, ws.make(CLOSE, close_payload(1000, b"*" * size)))


# ---- after a Close ----

AFTER = {
    "close": lambda ws: ws.make(CLOSE, close_payload(1001)),
    "close without payload": lambda ws: ws.make(CLOSE),
    "ping": lambda ws: ws.make(PING, "?"),
    "pong": lambda ws: ws.make(PONG, "!"),
    "text": lambda ws: ws.make(TEXT, "too late"),
    "binary": lambda ws: ws.make(BINARY, b"too late"),
    "fragments": lambda ws: ws.make(TEXT, "too", fin=False) + ws.make(CONT, " late"),
    "half a frame": lambda ws: ws.make(TEXT, "too late")[:4],
    "invalid": lambda ws: ws.make(3, "bad", rsv=7),
    "not UTF-8": lambda ws: ws.make(TEXT, b"\xff"),
    "bad close": lambda ws: ws.make(CLOSE, b"\x00"),
    "rubbish": lambda ws: b"\0" * 200_000,
}


@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
def test_5_5_1_what_follows_a_close_at_once_is_not_looked_at(ws, after):
    ws.send(ws.make(CLOSE, close_payload(1000)) + after(ws))
    ws.expect_close(1000)


@as_server  # the server has then closed, and the client has seen that it did
@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER)
def test_5_5_1_what_follows_a_close_later_is_not_looked_at(ws, after):
    ws.send_frame(CLOSE, close_payload(1000))
    ws.expect_close(1000)
    ws.send(after(ws))


@in_every_way
def test_5_5_1_messages_before_a_close_are_answered_first(ws, how):
    ws.send_in(how, ws.make(TEXT, "one"), ws.make(PING, "two"), ws.make(BINARY, b"3" * 300), ws.make(CLOSE))
    assert ws.message() == (TEXT, b"one")
    assert ws.frame() == Frame(PONG, b"two")
    assert ws.message() == (BINARY, b"3" * 300)
    ws.expect_close(None)


def test_5_5_1_a_large_message_before_a_close_is_answered_whole(ws):
    ws.send(ws.make(BINARY, bytes(1 << 20)) + ws.make(CLOSE, close_payload(1000)))
    assert ws.message() == (BINARY, bytes(1 << 20))
    ws.expect_close(1000)


def test_5_5_1_a_close_within_a_message_is_answered_and_the_message_is_not(ws):
    ws.send(ws.make(TEXT, "half", fin=False) + ws.make(CLOSE, close_payload(1000)) + ws.make(CONT, " and half"))
    ws.expect_close(1000)


# ---- the TCP connection (7.1) ----

@as_server
def test_7_1_1_the_server_closes_the_tcp_connection_first(ws):
    ws.send_frame(CLOSE, close_payload(1000))
    assert ws.frame() == Frame(CLOSE, close_payload(1000))
    ws.expect_end()  # and we have not closed anything yet


@as_client
def test_7_1_1_the_client_closes_the_tcp_connection_when_the_server_has(ws):
    ws.send_frame(CLOSE, close_payload(1000))
    assert ws.frame() == Frame(CLOSE, close_payload(1000))
    ws.expect_end()


def test_7_1_7_after_a_failure_nothing_is_answered(ws):
    ws.expect_failure(1002, ws.make(3), *(ws.make(PING, str(i)) for i in range(50)), ws.make(TEXT, "x"), ws.make(CLOSE))


@pytest.mark.parametrize("rubbish", [1000, 300_000])
def test_7_1_7_a_failure_is_told_whatever_is_still_on_its_way(ws, rubbish):
    ws.send(ws.make(TEXT, "x", rsv=1) + b"\x81" * rubbish)
    ws.expect_close(1002)


@pytest.mark.parametrize("count", [100 if LONG else 10])
def test_7_1_5_connections_end_independently(connect, count):
    many = [connect() for _ in range(count)]
    for i, ws in enumerate(many):
        ws.send_frame(CLOSE, close_payload(3000 + i))
    for i, ws in enumerate(many):
        ws.expect_close(3000 + i)
