# SPDX-License-Identifier: MIT
"""What can be wrong with permessage-deflate agreed upon: bits, data, text, sizes (RFC 7692, 6 and 7.2). Neither RFC
says with which code such a connection fails. Here a fault in a frame's bits is a protocol error (1002); DEFLATE
data that cannot be inflated is "not consistent with the type of the message" (1007); more than the limit is 1009."""
import random
import zlib

import pytest

from cases import HELLO, LONG, SETS, in_every_way
from deflate import Bits, Codec, farthest, stored
from peer import BINARY, CLOSE, CONT, PING, PONG, RSV1, TEXT, close_payload, dice
from test_utf8 import INVALID, TRUNCATED

MIB = 1 << 20


@pytest.fixture
def ws(agree):
    return agree()


def in_fragments(ws, opcode, payload, size):
    return b"".join(ws.make(CONT if at else opcode, payload[at:at + size], fin=at + size >= len(payload),
                            rsv=0 if at else RSV1) for at in range(0, len(payload), size))


# ---- reserved bits (6.1, 6.2; RFC 6455, 5.2) ----

@in_every_way
def test_7692_6_1_rsv1_in_a_continuation_fails_the_connection(ws, how):
    """"An endpoint MUST NOT set the "Per-Message Compressed" bit of control frames and non-first fragments of a data
    message." """
    ws.expect_failure(1002, ws.make(TEXT, HELLO[:3], fin=False, rsv=RSV1), ws.make(CONT, HELLO[3:], rsv=RSV1), how=how)


@in_every_way
def test_7692_6_1_rsv1_in_the_continuation_of_an_uncompressed_message_fails_the_connection(ws, how):
    ws.expect_failure(1002, ws.make(TEXT, "a", fin=False), ws.make(CONT, HELLO, rsv=RSV1), how=how)


@in_every_way
@pytest.mark.parametrize("payload", [b"", close_payload(1000)], ids=["empty", "full"])
@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_7692_6_1_rsv1_in_a_control_frame_fails_the_connection(ws, opcode, payload, how):
    ws.expect_failure(1002, ws.make(opcode, payload, rsv=RSV1), how=how)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_7692_6_1_rsv1_in_a_control_frame_within_a_message_fails_the_connection(ws, opcode):
    ws.expect_failure(1002, ws.make(TEXT, HELLO[:3], fin=False, rsv=RSV1), ws.make(opcode, b"", rsv=RSV1))


@in_every_way
@pytest.mark.parametrize("rsv", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_5_2_the_other_reserved_bits_still_fail_the_connection(ws, opcode, rsv, how):
    ws.expect_failure(1002, ws.make(opcode, HELLO, rsv=rsv), how=how)


@pytest.mark.parametrize("rsv", [1, 2, 3, 5, 6, 7])
def test_5_2_the_other_reserved_bits_in_a_continuation_still_fail_the_connection(ws, rsv):
    ws.expect_failure(1002, ws.make(TEXT, HELLO[:3], fin=False, rsv=RSV1), ws.make(CONT, HELLO[3:], rsv=rsv))


@pytest.mark.parametrize("opcode", [3, 7, 11, 15])
def test_5_2_a_reserved_opcode_with_rsv1_fails_the_connection(ws, opcode):
    ws.expect_failure(1002, ws.make(opcode, HELLO, rsv=RSV1))


def test_5_4_a_new_compressed_message_within_one_fails_the_connection(ws):
    ws.expect_failure(1002, ws.make(TEXT, HELLO[:3], fin=False, rsv=RSV1), ws.make(TEXT, HELLO, rsv=RSV1))


def test_5_4_a_continuation_without_a_start_still_fails_the_connection(ws):
    ws.expect_failure(1002, ws.make(CONT, HELLO, rsv=RSV1))


# ---- DEFLATE data (7.2.2) ----

def bits_of(*numbers):
    writer = Bits()
    for value, width in numbers:
        writer.put(value, width)
    return bytes(writer)


CORRUPT = {
    "a block of type 3": b"\x07",
    "a stored block whose lengths disagree": b"\x00\x05\x00\xfa\xfeHello\x00",
    "a reference before the beginning": Bits().fixed().reference(1).end().finish(),
    "a reference too far back": Bits().fixed().literal(65).reference(20_000).end().finish(),
    "a length code that does not exist": Bits().fixed().code(0xc6, 8).put(0, 20).finish(),
    "a distance code that does not exist": Bits().fixed().literal(65).code(1, 7).code(30, 5).put(0, 20).finish(),
    "too many length codes": bits_of((0, 1), (2, 2), (31, 5), (0, 5), (0, 4), (0, 40)),
    "widths that fit no code": bits_of((0, 1), (2, 2), (0, 5), (0, 5), (15, 4), *[(1, 3)] * 19, (0, 40)),
    "the widths repeat before the first": bits_of((0, 1), (2, 2), (0, 5), (0, 5), (0, 4), (1, 3), (1, 3), (0, 46)),
    "noise": bytes(range(255, 100, -1)),
    "text": b"this is not compressed at all",
}


@in_every_way
@pytest.mark.parametrize("payload", CORRUPT.values(), ids=CORRUPT)
def test_7692_7_2_2_data_that_cannot_be_inflated_fails_the_connection(agree, payload, how):
    ws = agree(SETS["no takeover"])
    ws.expect_failure(1007, ws.make(BINARY, payload, rsv=RSV1), how=how)


@pytest.mark.parametrize("at", [1, 10, 100, 500, 900])
def test_7692_7_2_2_a_block_that_turns_bad_fails_the_connection(ws, at):
    """As soon as it is seen: the frame need not be whole. Before it come `at` good octets."""
    ws.echo(TEXT, "good")
    ws.send_frame(BINARY, stored(bytes(at)) + b"\x07" + bytes(100), rsv=RSV1)
    ws.expect_close(1007)


def test_7692_7_2_2_what_follows_a_block_with_bfinal_is_data_too(ws):
    ws.expect_failure(1007, ws.make(TEXT, bytes.fromhex("f348cdc9c90700") + b"\x07", rsv=RSV1))


# Messages that end within a block. 7.2.2: the data with the tail put back is decompressed "using DEFLATE" (RFC 1951),
# whose blocks have an end; what stops before it is not such data.
def ends_within_a_block(payload):
    """With the tail put back, which may end a block by accident."""
    try:
        farthest(payload)
    except (AssertionError, IndexError):
        return True
    return False


def broken_off(payload, at):
    return next(payload[:n] for n in range(at, len(payload)) if ends_within_a_block(payload[:n]))


NOISE = Codec().pack(bytes(random.Random(7692).choices(range(200), k=2000)))
BROKEN_OFF = {
    "within a stored block": b"\x00\x64\x00\x9b\xffHello",
    "within the lengths of a stored block": b"\x00\x64",
    "within a dynamic header": broken_off(NOISE, 20),
    "within a dynamic block": broken_off(NOISE, 700),
}


@in_every_way
@pytest.mark.parametrize("payload", BROKEN_OFF.values(), ids=BROKEN_OFF)
def test_7692_7_2_2_a_message_that_ends_within_a_block_fails_the_connection(ws, payload, how):
    assert ends_within_a_block(payload)
    ws.expect_failure(1007, ws.make(BINARY, payload, rsv=RSV1), how=how)


@pytest.mark.parametrize("seed", range(6))
def test_7692_7_2_2_a_message_broken_off_anywhere_fails_the_connection(agree, seed):
    """The octets that are put back may look like the rest of a block, and another one begin; but only as LEN and NLEN
    of an empty stored block (7.2.1) do they end with a block and with a byte."""
    payload = Codec().pack(bytes(random.Random(seed).choices(range(20 + 30 * seed), k=1200)))
    for at in range(seed % 7, len(payload), 1 if LONG else 7):
        if ends_within_a_block(payload[:at]):
            ws = agree()
            ws.send_frame(BINARY, payload[:at], rsv=RSV1)
            ws.expect_close(1007)


def test_7692_7_2_2_the_next_message_does_not_complete_a_block(ws):
    whole = stored(b"x" * 100)
    ws.expect_failure(1007, ws.make(BINARY, whole[:50], rsv=RSV1), ws.make(BINARY, whole[50:], rsv=RSV1))


@pytest.mark.parametrize("role, own", [("server", "client"), ("client", "server")], ids=["as_server", "as_client"],
                         indirect=["role"])
def test_7692_7_1_1_a_reference_to_the_message_before_fails_the_connection_without_takeover(agree, own):
    """Who agreed to do without has no context to refer to, and Tidewire has kept none."""
    ws = agree(f"; {own}_no_context_takeover")
    assert f"{own}_no_context_takeover" in ws.agreed
    ws.send_frame(TEXT, HELLO, rsv=RSV1)
    assert ws.message() == (TEXT, b"Hello")
    ws.send_frame(TEXT, bytes.fromhex("f200110000"), rsv=RSV1)
    ws.expect_close(1007)


# ---- UTF-8 (RFC 6455, 8.1) ----

@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
def test_8_1_text_is_checked_after_inflating(ws, data):
    ws.expect_failure(1007, ws.pack(TEXT, b"valid, then " + data))


@pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED)
def test_8_1_compressed_text_that_ends_within_a_character_fails_the_connection(ws, data):
    ws.expect_failure(1007, ws.pack(TEXT, b"valid, then " + data))


def test_8_1_compressed_octets_need_not_be_text(ws):
    """The payload is not UTF-8, what it says is. A binary message may say anything."""
    text = "κόσμε 🌊".encode()
    payload = Codec().pack(text)
    with pytest.raises(UnicodeDecodeError):
        payload.decode()
    ws.send_frame(TEXT, payload, rsv=RSV1)
    assert ws.message() == (TEXT, text)
    ws.send_frame(BINARY, stored(b"\xff\xfe\x80") + b"\x00", rsv=RSV1)
    assert ws.message() == (BINARY, b"\xff\xfe\x80")
    ws.finish()


def test_8_1_a_character_may_be_in_two_compressed_fragments(ws):
    payload = ws.codec.pack("🌊".encode() * 50)
    ws.send(in_fragments(ws, TEXT, payload, 1))
    assert ws.message() == (TEXT, "🌊".encode() * 50)
    ws.finish()


# ---- limits (RFC 6455, 7.4.1 and 10.4) ----

@pytest.mark.parametrize("params", [SETS["defaults"], SETS["no takeover"]], ids=["takeover", "no takeover"])
@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_10_4_the_limit_counts_inflated_bytes(agree, params, kind):
    limit = 100_000
    ws = agree(params, max_message=limit)
    data = bytes(limit) if kind == "zeros" else dice.randbytes(limit - 1000) + bytes(1000)
    ws.echo(BINARY, data)
    ws.send(ws.pack(BINARY, data + b"x"))
    ws.expect_close(1009)


@pytest.mark.parametrize("size", [MIB, 100 * MIB, *([1 << 30] if LONG else [])])
@pytest.mark.parametrize("how", ["whole", "fragments"])
def test_10_4_a_bomb_fails_at_the_limit(agree, how, size):
    ws = agree(max_message=100_000)
    encoder = zlib.compressobj(9, wbits=-15)
    payload = b"".join(encoder.compress(bytes(MIB)) for _ in range(size // MIB)) + encoder.flush(zlib.Z_SYNC_FLUSH)[:-4]
    step = 100 if how == "fragments" else len(payload)
    ws.send(in_fragments(ws, BINARY, payload, step))
    ws.expect_close(1009)


def test_10_4_a_bomb_of_empty_blocks_is_only_an_empty_message(ws):
    payload = b"\x00\x00\x00\xff\xff" * 20_000 + b"\x00"
    ws.send_frame(BINARY, payload, rsv=RSV1)
    assert ws.message() == (BINARY, b"")
    ws.finish()
