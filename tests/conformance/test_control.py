# SPDX-License-Identifier: MIT
"""Pings and pongs (RFC 6455, 5.5.2, 5.5.3) and what holds for control frames of every kind (5.5)."""
import pytest

from cases import HOWS, LONG, in_every_way
from peer import BINARY, CLOSE, CONT, CONTROL, PING, PONG, TEXT, Frame, close_payload, dice

PAYLOADS = {
    "empty": b"", "text": b"are you there", "nul": b"\0", "binary": b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff",
    "not UTF-8": b"\xc3\x28\xff", "125": bytes(range(125, 250)),
}


# ---- pings (5.5.2) ----

@in_every_way
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_5_5_2_a_ping_is_answered_with_its_payload(ws, payload, how):
    ws.send_in(how, ws.make(PING, payload))
    assert ws.frame() == Frame(PONG, payload)
    ws.finish()


def test_5_5_2_pings_of_every_length_are_answered(ws):
    for size in range(126):
        payload = dice.randbytes(size)
        ws.send_frame(PING, payload)
        assert ws.frame() == Frame(PONG, payload)
    ws.finish()


# "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in response to previous Ping frame(s), the
# endpoint MAY elect to send a Pong frame for only the most recently processed Ping frame" (5.5.3): Tidewire does not
# elect to, so that each has its answer.
@in_every_way
def test_5_5_3_ten_pings_in_a_go_have_ten_answers_in_order(ws, how):
    ws.send_in(how, *(ws.make(PING, f"ping {i}") for i in range(10)))
    for i in range(10):
        assert ws.frame() == Frame(PONG, b"ping %d" % i)
    ws.finish()


def test_5_5_3_a_thousand_pings_in_a_go_have_a_thousand_answers_in_order(ws):
    ws.send(b"".join(ws.make(PING, str(i)) for i in range(1000)))
    for i in range(1000):
        assert ws.frame() == Frame(PONG, str(i).encode())
    ws.finish()


@in_every_way
def test_5_5_2_pings_and_messages_are_answered_in_the_order_they_came(ws, how):
    ws.send_in(how, ws.make(TEXT, "one"), ws.make(PING, "two"), ws.make(BINARY, "three"), ws.make(PING, ""))
    assert ws.message() == (TEXT, b"one")
    assert ws.frame() == Frame(PONG, b"two")
    assert ws.message() == (BINARY, b"three")
    assert ws.frame() == Frame(PONG)
    ws.finish()


# ---- pongs (5.5.3) ----

@in_every_way
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_5_5_3_an_unsolicited_pong_is_not_answered(ws, payload, how):
    ws.send_in(how, ws.make(PONG, payload))
    ws.finish()


def test_5_5_3_an_unsolicited_pong_does_not_disturb_a_ping(ws):
    ws.send(ws.make(PONG, "unasked") + ws.make(PING, "asked") + ws.make(PONG, "asked"))
    assert ws.frame() == Frame(PONG, b"asked")
    ws.finish()


def test_5_5_3_pongs_and_pings_mixed(ws):
    ws.send(b"".join(ws.make(PONG, str(i)) + ws.make(PING, str(i)) for i in range(10)))
    for i in range(10):
        assert ws.frame() == Frame(PONG, str(i).encode())
    ws.finish()


# ---- too long (5.5) ----

@pytest.mark.parametrize("how", ["at once", "octet by octet"])
@pytest.mark.parametrize("length", [126, 127, 65535, 65536])
@pytest.mark.parametrize("opcode", CONTROL)
def test_5_5_a_control_frame_over_125_bytes_fails_the_connection(ws, opcode, length, how):
    """Its header is enough; whoever waited for the payload would wait in vain."""
    ws.expect_failure(1002, ws.make(opcode, b"", length=length), how=how)


@pytest.mark.parametrize("opcode", CONTROL)
def test_5_5_a_whole_control_frame_of_126_bytes_fails_the_connection(ws, opcode):
    ws.expect_failure(1002, ws.make(opcode, close_payload(1000, b"x" * 124)), ws.make(PING, "not answered"))


# ---- fragments (5.5) ----

@in_every_way
@pytest.mark.parametrize("payload", [b"", close_payload(1000)], ids=["empty", "full"])
@pytest.mark.parametrize("opcode", CONTROL)
def test_5_5_a_control_frame_must_not_be_fragmented(ws, opcode, payload, how):
    ws.expect_failure(1002, ws.make(opcode, payload, fin=False), ws.make(CONT, payload), how=how)


@pytest.mark.parametrize("opcode", CONTROL)
def test_5_5_a_fragmented_control_frame_within_a_message_fails_the_connection(ws, opcode):
    ws.expect_failure(1002, ws.make(TEXT, "a", fin=False), ws.make(opcode, b"", fin=False), ws.make(CONT, "b"))


# ---- between fragments (5.4, 5.5) ----

@in_every_way
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_5_5_a_ping_between_fragments_is_answered_before_the_message_ends(ws, opcode, how):
    ws.send_in(how, ws.make(opcode, "to be ", fin=False), ws.make(PING, "now"))
    assert ws.frame() == Frame(PONG, b"now")
    ws.send_in(how, ws.make(CONT, "con", fin=False), ws.make(PONG, "unasked"), ws.make(PING, ""))
    assert ws.frame() == Frame(PONG)
    ws.send_in(how, ws.make(CONT, "tinued"))
    assert ws.message() == (opcode, b"to be continued")
    ws.finish()


@pytest.mark.parametrize("how", HOWS if LONG else HOWS[:2])
def test_5_5_pings_of_every_length_between_fragments(ws, how):
    ws.send_frame(BINARY, b"<", fin=False)
    for size in range(0, 126, 1 if LONG else 5):
        payload = dice.randbytes(size)
        ws.send_in(how, ws.make(PING, payload))
        assert ws.frame() == Frame(PONG, payload)
        ws.send_in(how, ws.make(CONT, b"-", fin=False))
    ws.send_frame(CONT, b">")
    assert ws.message() == (BINARY, b"<" + b"-" * len(range(0, 126, 1 if LONG else 5)) + b">")
    ws.finish()


@in_every_way
def test_5_5_1_a_close_between_fragments_ends_the_connection_and_the_message_is_lost(ws, how):
    ws.send_in(how, ws.make(TEXT, "half", fin=False), ws.make(CLOSE, close_payload(4000)))
    ws.expect_close(4000)
