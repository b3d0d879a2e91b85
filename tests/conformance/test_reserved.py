# SPDX-License-Identifier: MIT
"""What is reserved: bits and opcodes (RFC 6455, 5.2). Without an extension every such frame fails the connection, and
nothing behind it is answered."""
import itertools

import pytest

from cases import in_every_way
from peer import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame, close_payload

OPCODES = {"text": TEXT, "binary": BINARY, "close": CLOSE, "ping": PING, "pong": PONG}
RESERVED = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]
PAYLOADS = {"empty": b"", "full": close_payload(1000, b"*" * 50)}

opcodes = pytest.mark.parametrize("opcode", OPCODES.values(), ids=OPCODES)
payloads = pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)


# ---- bits ----

@payloads
@opcodes
@pytest.mark.parametrize("rsv", range(1, 8))
def test_5_2_a_reserved_bit_in_the_first_frame_fails_the_connection(ws, rsv, opcode, payload):
    ws.send_frame(opcode, payload, rsv=rsv)
    ws.expect_close(1002)


@in_every_way
@opcodes
@pytest.mark.parametrize("rsv", range(1, 8))
def test_5_2_a_reserved_bit_after_a_good_message_fails_the_connection(ws, rsv, opcode, how):
    ws.expect_failure(1002, ws.make(opcode, close_payload(1000), rsv=rsv), ws.make(PING, "not answered"), how=how)


@in_every_way
@pytest.mark.parametrize("rsv", range(1, 8))
def test_5_2_a_reserved_bit_in_a_continuation_fails_the_connection(ws, rsv, how):
    ws.expect_failure(1002, ws.make(TEXT, "a", fin=False), ws.make(CONT, "b", rsv=rsv), how=how)


@pytest.mark.parametrize("rsv", range(1, 8))
def test_5_2_a_reserved_bit_in_a_ping_between_fragments_fails_the_connection(ws, rsv):
    ws.send(ws.make(TEXT, "a", fin=False) + ws.make(PING, "good"))
    assert ws.frame() == Frame(PONG, b"good")
    ws.send(ws.make(PING, "bad", rsv=rsv) + ws.make(CONT, "b"))
    ws.expect_close(1002)


@pytest.mark.parametrize("rsv", [1, 2, 4])
def test_5_2_the_first_octet_alone_is_not_answered_but_the_header_is(ws, rsv):
    data = ws.make(TEXT, "x" * 100, rsv=rsv)
    ws.send_apart([data[:1], data[1:2], data[2:6]])
    ws.expect_close(1002)


# ---- opcodes ----

@pytest.mark.parametrize("fin", [True, False], ids=["fin", "more"])
@payloads
@pytest.mark.parametrize("opcode", RESERVED)
def test_5_2_a_reserved_opcode_fails_the_connection(ws, opcode, payload, fin):
    ws.send_frame(opcode, payload, fin=fin)
    ws.expect_close(1002)


@in_every_way
@payloads
@pytest.mark.parametrize("opcode", RESERVED)
def test_5_2_a_reserved_opcode_after_a_good_message_fails_the_connection(ws, opcode, payload, how):
    ws.expect_failure(1002, ws.make(opcode, payload), ws.make(PING, "not answered"), how=how)


@pytest.mark.parametrize("opcode", RESERVED)
def test_5_2_a_reserved_opcode_within_a_message_fails_the_connection(ws, opcode):
    ws.expect_failure(1002, ws.make(BINARY, "a", fin=False), ws.make(opcode, "b"), ws.make(CONT, "c"))


@pytest.mark.parametrize("opcode", RESERVED)
def test_5_2_a_reserved_opcode_fails_the_connection_before_its_payload_comes(ws, opcode):
    ws.expect_failure(1002, ws.make(opcode, b"", length=1000))


@pytest.mark.parametrize("rsv, opcode", itertools.product([1, 4, 7], RESERVED))
def test_5_2_reserved_bits_and_a_reserved_opcode_together_fail_the_connection_once(ws, rsv, opcode):
    ws.expect_failure(1002, ws.make(opcode, "x", rsv=rsv), ws.make(opcode, "x", rsv=rsv))
