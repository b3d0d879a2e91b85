# SPDX-License-Identifier: MIT
"""Frames: lengths and their forms, masks (RFC 6455, 5.1 to 5.3, 5.6)."""
import pytest

from cases import LONG, as_client, as_server
from peer import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_payload, dice

SIZES = [0, 1, 125, 126, 127, 128, 65535, 65536]
MASKS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x00\x80\x7f\x01", b"\x01\0\0\0", b"\0\0\0\x01"]


# ---- messages of every length (5.2, 5.6) ----

def check_sizes(ws, opcode, payload, chop):
    """Three messages in a row, in writes of `chop` octets."""
    ws.send(ws.make(opcode, payload) * 3, chop)
    for _ in range(3):
        assert ws.message() == (opcode, payload)
    ws.finish()


@pytest.mark.parametrize("chop", [None, 997])
@pytest.mark.parametrize("size", SIZES)
def test_5_6_a_text_message_of_this_size_is_echoed(ws, size, chop):
    check_sizes(ws, TEXT, (b"*tide\xc3\xa9" * (size // 7 + 1))[:size // 7 * 7] + b"*" * (size % 7), chop)


@pytest.mark.parametrize("chop", [None, 997])
@pytest.mark.parametrize("size", SIZES)
def test_5_6_a_binary_message_of_this_size_is_echoed(ws, size, chop):
    check_sizes(ws, BINARY, (bytes(range(256)) * (size // 256 + 1))[:size], chop)


@pytest.mark.parametrize("size", SIZES)
def test_5_2_a_header_may_come_octet_by_octet(ws, size):
    payload = dice.randbytes(size)
    data = ws.make(BINARY, payload)
    header = len(data) - size + min(size, 5)
    ws.send_apart([*(data[i:i + 1] for i in range(header)), data[header:]] if size > 5 else
                  [data[i:i + 1] for i in range(len(data))])
    assert ws.message() == (BINARY, payload)
    ws.finish()


@pytest.mark.parametrize("size", range(4, 40 if LONG else 12))
def test_5_2_a_frame_may_be_cut_in_two_anywhere(ws, size):
    payload = dice.randbytes(size)
    data = ws.make(BINARY, payload)
    for at in range(1, len(data)):
        ws.send_apart([data[:at], data[at:]])
        assert ws.message() == (BINARY, payload)
    ws.finish()


def test_5_2_text_and_binary_keep_their_kind(ws):
    for i in range(10):
        ws.echo(TEXT if i % 2 else BINARY, str(i))
    ws.finish()


def test_5_6_nul_and_control_characters_are_text(ws):
    ws.echo(TEXT, bytes(range(128)))
    ws.finish()


# ---- forms of the length (5.2) ----
# "The minimal number of bytes MUST be used to encode the length." What becomes of one who does not is left open; it is
# a protocol fault like any other, hence 1002.

@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING])
@pytest.mark.parametrize("size, n", [(16, 0), (16, 1), (16, 125), (64, 0), (64, 125), (64, 126), (64, 65535)])
def test_5_2_a_length_in_more_octets_than_it_needs_fails_the_connection(ws, opcode, size, n):
    ws.expect_failure(1002, ws.make(opcode, b"", length=n, size=size))


@pytest.mark.parametrize("how", ["at once", "octet by octet"])
@pytest.mark.parametrize("length", [1 << 63, (1 << 63) + 1, (1 << 64) - 1])
def test_5_2_the_most_significant_bit_of_a_length_must_be_zero(ws, length, how):
    ws.expect_failure(1002, ws.make(BINARY, b"", length=length, size=64), how=how)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [(17 << 20) + 1, 1 << 32, 1 << 62, (1 << 63) - 1])
def test_7_4_1_a_length_over_the_limit_fails_the_connection_before_its_payload_comes(ws, opcode, length):
    ws.expect_failure(1009, ws.make(opcode, b"", length=length, size=64))


@pytest.mark.parametrize("more", [[1], [0, 1], [1 << 40]])
def test_7_4_1_fragments_together_over_the_limit_fail_the_connection(ws, more):
    ws.send_frame(BINARY, bytes(17 << 20), fin=False)
    for length in more[:-1]:
        ws.send_frame(CONT, bytes(length), fin=False)
    ws.send(ws.make(CONT, b"", length=more[-1]))
    ws.expect_close(1009)


# ---- masks: Tidewire serves (5.1, 5.3) ----

@as_server
@pytest.mark.parametrize("payload", [b"", close_payload(1000)], ids=["empty", "full"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_5_1_an_unmasked_frame_from_a_client_fails_the_connection(ws, opcode, payload):
    ws.expect_failure(1002, ws.make(opcode, payload, mask=None))


@as_server
@pytest.mark.parametrize("how", ["at once", "octet by octet"])
def test_5_1_an_unmasked_fragment_from_a_client_fails_the_connection(ws, how):
    ws.expect_failure(1002, ws.make(TEXT, "a", fin=False), ws.make(CONT, "b", mask=None), how=how)


@as_server
@pytest.mark.parametrize("mask", MASKS, ids=bytes.hex)
def test_5_3_any_mask_comes_off_at_any_alignment(ws, mask):
    for size in [*range(70), 125, 126, 127, 1000, 4095, 4096, 4097, 65537]:
        payload = (bytes(range(256)) * (size // 256 + 1))[:size]
        ws.send_frame(BINARY, payload, mask=mask)
        assert ws.message() == (BINARY, payload)
    ws.finish()


@as_server
@pytest.mark.parametrize("size", range(1, 34))
def test_5_3_a_mask_comes_off_wherever_the_payload_is_cut(ws, size):
    payload = bytes(range(100, 100 + size))
    data = ws.make(BINARY, payload, mask=b"\x12\x34\x56\x78")
    for at in range(6, len(data), 1 if LONG else 5):
        ws.send_apart([data[:at], data[at:]])
        assert ws.message() == (BINARY, payload)
    ws.finish()


@as_server
def test_5_3_each_fragment_has_its_own_mask(ws):
    pieces = [dice.randbytes(n) for n in (5, 0, 3, 64, 1, 7)]
    for i, piece in enumerate(pieces):
        ws.send_frame(CONT if i else BINARY, piece, fin=i == len(pieces) - 1, mask=dice.randbytes(4))
    assert ws.message() == (BINARY, b"".join(pieces))
    ws.finish()


# ---- masks: Tidewire connects (5.1, 5.3, 10.3) ----
# That its own frames are masked is looked at in every test: Peer.frame() insists on it.

@as_client
@pytest.mark.parametrize("payload", [b"", close_payload(1000)], ids=["empty", "full"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_5_1_a_masked_frame_from_a_server_fails_the_connection(ws, opcode, payload):
    ws.expect_failure(1002, ws.make(opcode, payload, mask=b"\x01\x02\x03\x04"))


@as_client
@pytest.mark.parametrize("how", ["at once", "octet by octet"])
def test_5_1_a_masked_fragment_from_a_server_fails_the_connection(ws, how):
    ws.expect_failure(1002, ws.make(TEXT, "a", fin=False), ws.make(CONT, "b", mask=b"\0\0\0\0"), how=how)


@as_client
def test_5_3_each_frame_of_a_client_has_a_fresh_key(ws):
    for i in range(300):
        ws.echo(TEXT, "the same")
    for i in range(100):
        ws.send_frame(PING, b"the same")
        assert ws.frame().opcode == PONG
    ws.finish()
    assert len(ws.masks) == 401
    assert len(set(ws.masks)) >= 400  # two alike once in a while: 401 of 2**32 hold such a pair once in 50,000 runs


@as_client
def test_10_3_the_keys_cannot_be_told_from_those_before(ws):
    """No counter, no clock, no key that repeats in part: all four octets take many values, no step is taken twice."""
    for i in range(400):
        ws.echo(BINARY, b"x")
    keys = [int.from_bytes(mask, "big") for mask in ws.masks]
    for octet in range(4):
        assert len({mask[octet] for mask in ws.masks}) > 150  # of 256; about 202 are to be expected
    steps = [(b - a) % (1 << 32) for a, b in zip(keys, keys[1:])]
    assert len(set(steps)) > 390
    twists = [a ^ b for a, b in zip(keys, keys[1:])]
    assert len(set(twists)) > 390
    bits = sum(key.bit_count() for key in keys)
    assert 0.46 < bits / (32 * len(keys)) < 0.54  # nine standard deviations each way
    ws.finish()


@as_client
def test_10_3_two_connections_have_different_keys(connect):
    first, second = connect(), connect()
    for ws in (first, second):
        for _ in range(50):
            ws.echo(TEXT, "x")
    assert not set(first.masks) & set(second.masks)


@as_client
@pytest.mark.parametrize("size", SIZES)
def test_5_3_a_client_masks_messages_of_every_size(ws, size):
    ws.echo(BINARY, dice.randbytes(size))
    ws.finish()
