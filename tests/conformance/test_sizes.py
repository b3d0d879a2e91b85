# SPDX-License-Identifier: MIT
"""Large messages, small ones in numbers, and limits (RFC 6455, 5.4, 5.6, 10.4)."""
import pytest

from cases import LONG
from peer import BINARY, CONT, PING, PONG, TEXT, Frame, dice, xor

KIB, MIB = 1 << 10, 1 << 20
LARGE = [64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB] if LONG else [64 * KIB, MIB, 16 * MIB]
FRAGMENTS = [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB]
CHOPS = [64, 128, 256, 512, KIB, 2 * KIB]

kinds = pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])


def data_of(opcode, size):
    """Text of all lengths of characters, or octets of all values; never the same in two places."""
    if opcode == BINARY:
        return dice.randbytes(size)
    text = "".join(f"{dice.getrandbits(60):x} grüße 日本語 🌊 " for _ in range(size // 45 + 1)).encode()[:size]
    whole = text.decode(errors="ignore").encode()
    return whole + b"." * (size - len(whole))


def fragmented(ws, opcode, data, size):
    """A message in fragments of `size`, a multiple of 4, all under one mask, which is a mask like any other."""
    mask = dice.randbytes(4) if ws.role == "server" else None
    masked = xor(data, mask) if mask else data
    pieces = []
    for at in range(0, len(data), size):
        piece = masked[at:at + size]
        head = ws.make(CONT if at else opcode, b"", fin=at + size >= len(data), mask=mask, length=len(piece))
        pieces.append(head + piece)
    return b"".join(pieces)


# ---- large ----

@kinds
@pytest.mark.parametrize("size", LARGE)
def test_5_6_a_large_message_in_one_frame_is_echoed(ws, opcode, size):
    ws.echo(opcode, data_of(opcode, size))
    ws.finish()


@kinds
@pytest.mark.parametrize("fragment", FRAGMENTS if LONG else [64, 4 * KIB, 256 * KIB])
def test_5_4_a_large_message_in_fragments_is_echoed(ws, opcode, fragment):
    data = data_of(opcode, 4 * MIB if LONG else MIB)
    ws.send(fragmented(ws, opcode, data, fragment))
    assert ws.message() == (opcode, data)
    ws.finish()


@pytest.mark.long
@kinds
@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_5_4_the_largest_message_in_fragments_is_echoed(ws, opcode, fragment):
    data = data_of(opcode, 16 * MIB)
    ws.send(fragmented(ws, opcode, data, fragment))
    assert ws.message() == (opcode, data)
    ws.finish()


@kinds
@pytest.mark.parametrize("chop", CHOPS)
def test_5_6_a_large_message_in_small_writes_is_echoed(ws, opcode, chop):
    data = data_of(opcode, MIB if LONG else 128 * KIB)
    ws.send(ws.make(opcode, data), chop)
    assert ws.message() == (opcode, data)
    ws.finish()


@pytest.mark.long
@kinds
@pytest.mark.parametrize("chop", CHOPS)
def test_5_6_the_largest_message_in_small_writes_is_echoed(ws, opcode, chop):
    data = data_of(opcode, 16 * MIB)
    ws.send(ws.make(opcode, data), chop)
    assert ws.message() == (opcode, data)
    ws.finish()


@pytest.mark.parametrize("chop", [64, KIB])
def test_5_4_a_large_message_in_fragments_and_small_writes_is_echoed(ws, chop):
    data = data_of(TEXT, MIB if LONG else 128 * KIB)
    ws.send(fragmented(ws, TEXT, data, 256), chop)
    assert ws.message() == (TEXT, data)
    ws.finish()


def test_5_4_pings_between_the_fragments_of_a_large_message_are_answered(ws):
    data = data_of(BINARY, MIB)
    for i in range(16):
        ws.send_frame(CONT if i else BINARY, data[i * 64 * KIB:(i + 1) * 64 * KIB], fin=False)
        ws.send_frame(PING, str(i))
        assert ws.frame() == Frame(PONG, str(i).encode())
    ws.send_frame(CONT, b"")
    assert ws.message() == (BINARY, data)
    ws.finish()


def test_5_6_large_and_small_messages_in_turn(ws):
    for size in (MIB, 1, 64 * KIB, 0, 300 * KIB, 125):
        ws.echo(BINARY, data_of(BINARY, size))
    ws.finish()


# ---- in numbers ----

@kinds
@pytest.mark.parametrize("size", [0, 16, 64, 256, KIB, 4 * KIB])
def test_5_6_a_thousand_messages_one_after_the_other_are_echoed(ws, opcode, size):
    data = data_of(opcode, size)
    for i in range(1000):
        ws.echo(opcode, data[i % 2 * (size // 2):] if opcode == BINARY else data)
    ws.finish()


@kinds
@pytest.mark.parametrize("size", [0, 16, 64])
def test_5_6_a_thousand_messages_at_once_are_echoed_in_order(ws, opcode, size):
    messages = [str(i).encode().rjust(size, b".") if size else b"" for i in range(1000)]
    ws.send(b"".join(ws.make(opcode, message) for message in messages))
    for message in messages:
        assert ws.message() == (opcode, message)
    ws.finish()


@pytest.mark.long
@pytest.mark.parametrize("size", [16 * KIB, 64 * KIB, 128 * KIB])
def test_5_6_a_thousand_larger_messages_one_after_the_other_are_echoed(ws, size):
    data = data_of(BINARY, size)
    for _ in range(1000):
        ws.echo(BINARY, data)
    ws.finish()


# ---- limits (10.4) ----

@kinds
@pytest.mark.parametrize("how", ["at once", "fragments"])
def test_10_4_a_message_of_exactly_the_limit_is_echoed_and_one_byte_more_fails(connect, opcode, how):
    limit = 1000
    ws = connect(max_message=limit)
    data = data_of(opcode, limit)
    ws.send(ws.make(opcode, data) if how == "at once" else fragmented(ws, opcode, data, 64))
    assert ws.message() == (opcode, data)
    data += b"."
    ws.send(ws.make(opcode, data) if how == "at once" else fragmented(ws, opcode, data, 64))
    ws.expect_close(1009)


def test_10_4_an_endless_message_fails_at_the_limit(connect):
    ws = connect(max_message=1000)
    ws.send(ws.make(TEXT, "x" * 500, fin=False) + ws.make(CONT, "x" * 500, fin=False) + ws.make(PING, "room"))
    assert ws.frame() == Frame(PONG, b"room")
    ws.send(ws.make(CONT, "x", fin=False))
    ws.expect_close(1009)


def test_10_4_control_frames_do_not_count(connect):
    ws = connect(max_message=100)
    ws.send_frame(TEXT, "x" * 60, fin=False)
    ws.send_frame(PING, "y" * 125)
    assert ws.frame() == Frame(PONG, b"y" * 125)
    ws.send_frame(CONT, "x" * 40)
    assert ws.message() == (TEXT, b"x" * 100)
    ws.finish()


def test_10_4_a_limit_for_frames_holds_for_each(connect):
    ws = connect(max_frame=100)
    ws.send(ws.make(BINARY, b"x" * 100, fin=False) + ws.make(CONT, b"y" * 100))
    assert ws.message() == (BINARY, b"x" * 100 + b"y" * 100)
    ws.send_frame(BINARY, b"", length=101)
    ws.expect_close(1009)
