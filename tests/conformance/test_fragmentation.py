# SPDX-License-Identifier: MIT
"""Messages in fragments (RFC 6455, 5.4)."""
import pytest

from cases import LONG, in_every_way
from peer import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame, close_payload, dice

KINDS = pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])


def fragments(ws, opcode, pieces):
    last = len(pieces) - 1
    return [ws.make(CONT if i else opcode, piece, fin=i == last) for i, piece in enumerate(pieces)]


# ---- whole again ----

SPLITS = [
    ["", ""], ["", "a"], ["a", ""], ["", "", ""], ["a", "b"], ["a", "", "b"], ["", "a", "", "b", ""], [""] * 20,
    ["x" * 125, "y" * 126], ["x" * 127, "", "y" * 300], list("octets"),
]


@in_every_way
@KINDS
@pytest.mark.parametrize("pieces", SPLITS, ids=lambda pieces: "+".join(str(len(piece)) for piece in pieces))
def test_5_4_fragments_are_put_together(ws, opcode, pieces, how):
    for _ in range(2):
        ws.send_in(how, *fragments(ws, opcode, pieces))
        assert ws.message() == (opcode, "".join(pieces).encode())
    ws.finish()


@KINDS
@pytest.mark.parametrize("sizes", [(65535, 65536), (4096, 4096), (4095, 1, 4097), (70000, 0, 200), (1 << 20, 1)],
                         ids=str)
def test_5_4_large_fragments_are_put_together(ws, opcode, sizes):
    pieces = ["abcdefghij"[i % 10] * size for i, size in enumerate(sizes)]
    ws.send(b"".join(fragments(ws, opcode, pieces)), 4000)
    assert ws.message() == (opcode, "".join(pieces).encode())
    ws.finish()


@KINDS
@pytest.mark.parametrize("count", [1000, pytest.param(100_000, marks=pytest.mark.long)])
def test_5_4_a_message_may_have_many_fragments(ws, opcode, count):
    pieces = [f"{i % 10}" for i in range(count)]
    ws.send(b"".join(fragments(ws, opcode, pieces)))
    assert ws.message() == (opcode, "".join(pieces).encode())
    ws.finish()


def test_5_4_many_fragmented_messages_in_a_go(ws):
    ws.send(b"".join(b"".join(fragments(ws, (TEXT, BINARY)[i % 2], [f"{i}:", "", "x" * i])) for i in range(100)))
    for i in range(100):
        assert ws.message() == ((TEXT, BINARY)[i % 2], f"{i}:{'x' * i}".encode())
    ws.finish()


def test_5_4_a_message_may_be_cut_in_two_fragments_anywhere(ws):
    data = dice.randbytes(130)
    for at in range(131):
        ws.send(b"".join(fragments(ws, BINARY, [data[:at], data[at:]])))
        assert ws.message() == (BINARY, data)
    ws.finish()


@in_every_way
def test_5_4_whole_messages_and_fragmented_ones_in_turn(ws, how):
    ws.send_in(how, ws.make(TEXT, "one"), *fragments(ws, BINARY, ["t", "wo"]), ws.make(BINARY, "three"),
               *fragments(ws, TEXT, ["", "four"]))
    for i, word in enumerate([b"one", b"two", b"three", b"four"]):
        assert ws.message() == ((BINARY if i in (1, 2) else TEXT), word)
    ws.finish()


# ---- control frames between ----

@in_every_way
@KINDS
def test_5_4_control_frames_may_come_between_any_two_fragments(ws, opcode, how):
    first, second, third = fragments(ws, opcode, ["one ", "two ", "three"])
    ws.send_in(how, first, ws.make(PING, "1"), second, ws.make(PONG, "2"), ws.make(PING, "3"), ws.make(PING, "4"),
               third, ws.make(PING, "5"))
    for payload in (b"1", b"3", b"4"):
        assert ws.frame() == Frame(PONG, payload)
    assert ws.message() == (opcode, b"one two three")
    assert ws.frame() == Frame(PONG, b"5")
    ws.finish()


@pytest.mark.parametrize("pings", [1, 20])
def test_5_4_pings_between_empty_fragments(ws, pings):
    pieces = fragments(ws, TEXT, [""] * 10)
    for i, piece in enumerate(pieces):
        ws.send(piece + b"".join(ws.make(PING, f"{i}.{n}") for n in range(pings)))
    for i in range(9):
        for n in range(pings):
            assert ws.frame() == Frame(PONG, f"{i}.{n}".encode())
    assert ws.message() == (TEXT, b"")
    for n in range(pings):
        assert ws.frame() == Frame(PONG, f"9.{n}".encode())
    ws.finish()


@in_every_way
def test_5_4_a_close_between_fragments_is_answered(ws, how):
    ws.send_in(how, ws.make(TEXT, "a", fin=False), ws.make(CONT, "b", fin=False), ws.make(CLOSE, close_payload(1001)))
    ws.expect_close(1001)


def test_5_4_a_close_right_behind_a_fragmented_message_is_answered_after_it(ws):
    ws.send(b"".join(fragments(ws, TEXT, ["a", "b"])) + ws.make(CLOSE, close_payload(3000)))
    assert ws.message() == (TEXT, b"ab")
    ws.expect_close(3000)


# ---- out of sequence ----

@in_every_way
@pytest.mark.parametrize("fin", [True, False], ids=["fin", "more"])
@pytest.mark.parametrize("payload", [b"", b"stray"], ids=["empty", "full"])
def test_5_4_a_continuation_without_a_start_fails_the_connection(ws, payload, fin, how):
    ws.expect_failure(1002, ws.make(CONT, payload, fin=fin), ws.make(TEXT, "not answered"), how=how)


@pytest.mark.parametrize("fin", [True, False], ids=["fin", "more"])
def test_5_4_a_continuation_as_the_first_frame_fails_the_connection(ws, fin):
    ws.send_frame(CONT, "stray", fin=fin)
    ws.expect_close(1002)


@in_every_way
def test_5_4_a_continuation_after_the_last_fragment_fails_the_connection(ws, how):
    ws.send(b"".join(fragments(ws, TEXT, ["a", "b"])))
    assert ws.message() == (TEXT, b"ab")
    ws.send_in(how, ws.make(CONT, "c"))
    ws.expect_close(1002)


def test_5_4_a_continuation_after_a_ping_without_a_start_fails_the_connection(ws):
    ws.send(ws.make(PING, "1") + ws.make(CONT, "stray", fin=False) + ws.make(CONT, "more"))
    assert ws.frame() == Frame(PONG, b"1")
    ws.expect_close(1002)


@in_every_way
@pytest.mark.parametrize("fin", [True, False], ids=["fin", "more"])
@pytest.mark.parametrize("second", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("first", [TEXT, BINARY], ids=["text", "binary"])
def test_5_4_a_new_message_within_a_message_fails_the_connection(ws, first, second, fin, how):
    ws.expect_failure(1002, ws.make(first, "a", fin=False), ws.make(second, "b", fin=fin), ws.make(CONT, "c"), how=how)


@pytest.mark.parametrize("second", [TEXT, BINARY], ids=["text", "binary"])
def test_5_4_a_new_message_after_several_fragments_fails_the_connection(ws, second):
    ws.expect_failure(1002, ws.make(TEXT, "a", fin=False), ws.make(CONT, "", fin=False), ws.make(CONT, "b", fin=False),
                      ws.make(second, ""))


def test_5_4_a_new_empty_message_within_an_empty_message_fails_the_connection(ws):
    ws.expect_failure(1002, ws.make(TEXT, "", fin=False), ws.make(TEXT, ""))


@pytest.mark.parametrize("rounds", range(1, 40 if LONG else 6))
def test_5_4_many_good_ones_do_not_hide_a_stray_one(ws, rounds):
    for i in range(rounds):
        ws.send(b"".join(fragments(ws, BINARY, [dice.randbytes(i), dice.randbytes(rounds)])))
        assert ws.message()[0] == BINARY
    ws.send_frame(CONT, b"", fin=False)
    ws.expect_close(1002)
