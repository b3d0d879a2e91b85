# SPDX-License-Identifier: MIT
"""Text is UTF-8 (RFC 6455, 5.6, 8.1; RFC 3629). Tidewire fails fast: at the first octet that nothing could make good,
before the frame or the message ends. The RFC asks only that it fail; that it does so at once is Tidewire's word."""
import pytest

from cases import LONG, in_every_way
from peer import BINARY, CONT, PING, PONG, TEXT, Frame

VALID = {
    "empty": b"",
    "ascii": bytes(range(128)),
    "greek": "κόσμε".encode(),
    "all lengths": "$¢€𐍈 grüße, 日本語, 🌊".encode(),
    "first of 1": b"\x00", "last of 1": b"\x7f",
    "first of 2": b"\xc2\x80", "last of 2": b"\xdf\xbf",
    "first of 3": b"\xe0\xa0\x80", "last of 3": b"\xef\xbf\xbf",
    "first of 4": b"\xf0\x90\x80\x80", "last of 4": b"\xf4\x8f\xbf\xbf",
    "before the surrogates": b"\xed\x9f\xbf", "after the surrogates": b"\xee\x80\x80",
    "last of plane 2": b"\xf0\xaf\xbf\xbf", "first of plane 3": b"\xf0\xb0\x80\x80", "plane 15": b"\xf3\xb0\x80\x80",
    "replacement": b"\xef\xbf\xbd", "byte order mark": b"\xef\xbb\xbfx", "private use": b"\xee\x80\x80\xef\xa3\xbf",
    # not characters, yet code points like any other: RFC 3629 leaves out the surrogates only
    "U+FDD0": b"\xef\xb7\x90", "U+FDEF": b"\xef\xb7\xaf", "U+FFFE": b"\xef\xbf\xbe", "U+FFFF": b"\xef\xbf\xbf",
    **{f"U+{plane:X}FFF{end:X}": chr((plane << 16) + 0xfff0 + end).encode()
       for plane in range(1, 17) for end in (14, 15)},
}

INVALID = {
    # continuations without a start
    "80": b"\x80", "bf": b"\xbf", "two continuations": b"\x80\xbf", "five continuations": b"\x80\xbf\x80\xbf\x80",
    "continuation after ascii": b"a\x80", "continuation after two": b"\xc3\xa9\xa9",
    "continuation after four": b"\xf0\x9f\x8c\x8a\x80",
    # what no sequence contains
    "c0": b"\xc0", "c1": b"\xc1", "f5": b"\xf5", "f8": b"\xf8", "fb": b"\xfb", "fc": b"\xfc", "fe": b"\xfe",
    "ff": b"\xff", "fe ff": b"\xfe\xff", "five octets": b"\xf8\x88\x80\x80\x80",
    "six octets": b"\xfc\x84\x80\x80\x80\x80",
    # overlong
    "slash in 2": b"\xc0\xaf", "slash in 3": b"\xe0\x80\xaf", "slash in 4": b"\xf0\x80\x80\xaf",
    "nul in 2": b"\xc0\x80", "nul in 3": b"\xe0\x80\x80", "nul in 4": b"\xf0\x80\x80\x80",
    "last overlong of 2": b"\xc1\xbf",
    "last overlong of 3": b"\xe0\x9f\xbf", "last overlong of 4": b"\xf0\x8f\xbf\xbf",
    # surrogates
    "U+D800": b"\xed\xa0\x80", "U+DB7F": b"\xed\xad\xbf", "U+DBFF": b"\xed\xaf\xbf", "U+DC00": b"\xed\xb0\x80",
    "U+DFFF": b"\xed\xbf\xbf", "a pair": b"\xed\xa0\x80\xed\xb0\x80",
    # above U+10FFFF
    "U+110000": b"\xf4\x90\x80\x80", "U+13FFFF": b"\xf4\xbf\xbf\xbf", "U+140000": b"\xf5\x80\x80\x80",
    # broken off
    "c3 then ascii": b"\xc3(", "e2 82 then ascii": b"\xe2\x82(", "e2 then ascii": b"\xe2(\xa1",
    "f0 9f 8c then ascii": b"\xf0\x9f\x8c(", "f0 then ascii": b"\xf0(\x8c\xbc", "start after start": b"\xc3\xc3\xa9",
    "start of 4 after 3 of 4": b"\xf0\x9f\x8c\xf0\x9f\x8c\x8a",
    "greek with a surrogate": "κόσμε".encode() + b"\xed\xa0\x80x",
    "latin-1": "grüße".encode("latin-1"), "utf-16": "tide".encode("utf-16"),
}

TRUNCATED = {char[:at].hex(): char[:at] for char in map(str.encode, "é€🌊\ud7ff\u0800\U0010ffff\U00010000")
             for at in range(1, len(char))}

# RFC 3629, 4: what may follow a first octet.
SECOND = {0xe0: range(0xa0, 0xc0), 0xed: range(0x80, 0xa0), 0xf0: range(0x90, 0xc0), 0xf4: range(0x80, 0x90)}


def first_fault(data):
    """The index of the first octet with which no UTF-8 can begin; len(data) when there is none."""
    left, allowed = 0, range(0)
    for at, octet in enumerate(data):
        if left:
            if octet not in allowed:
                return at
            left, allowed = left - 1, range(0x80, 0xc0)
        elif octet >= 0x80:
            if not 0xc2 <= octet <= 0xf4:
                return at
            left, allowed = 1 + (octet >= 0xe0) + (octet >= 0xf0), SECOND.get(octet, range(0x80, 0xc0))
    return len(data)


def cases(table):
    return pytest.mark.parametrize("data", table.values(), ids=table)


def octet_fragments(ws, data):
    """Each octet is a fragment, and the last one is empty."""
    return [*(ws.make(CONT if i else TEXT, data[i:i + 1], fin=False) for i in range(len(data))),
            ws.make(CONT if data else TEXT, b"")]


# ---- valid ----

@cases(VALID)
def test_8_1_valid_text_is_echoed(ws, data):
    ws.send_frame(TEXT, data)
    assert ws.message() == (TEXT, data)
    ws.send_in("octet by octet", ws.make(TEXT, data))
    assert ws.message() == (TEXT, data)
    ws.finish()


@cases(VALID)
def test_8_1_a_fragment_need_not_end_with_a_character(ws, data):
    """5.6: "Note that a particular text frame might include a partial UTF-8 sequence; however, the whole message MUST
    contain valid UTF-8.\""""
    for at in range(len(data) + 1):
        ws.send(ws.make(TEXT, data[:at], fin=False) + ws.make(CONT, data[at:]))
        assert ws.message() == (TEXT, data)
    ws.send(b"".join(octet_fragments(ws, data)))
    assert ws.message() == (TEXT, data)
    ws.finish()


def test_8_1_a_ping_within_a_character_does_no_harm(ws):
    ws.send(ws.make(TEXT, b"\xf0\x9f", fin=False) + ws.make(PING, b"\xff"))
    assert ws.frame() == Frame(PONG, b"\xff")
    ws.send(ws.make(CONT, b"\x8c\x8a"))
    assert ws.message() == (TEXT, "🌊".encode())
    ws.finish()


@pytest.mark.parametrize("before", range(0, 70, 1 if LONG else 7))
def test_8_1_valid_text_at_every_alignment(ws, before):
    for data in VALID.values():
        ws.echo(TEXT, b"x" * before + data + b"y" * 40)
    ws.finish()


def test_8_1_binary_messages_may_contain_anything(ws):
    for data in INVALID.values():
        ws.echo(BINARY, data)
    ws.finish()


def test_8_1_every_code_point_is_echoed(ws):
    for first in range(0, 0x110000, 0x8000):
        text = "".join(map(chr, range(first, first + 0x8000))).encode(errors="ignore")
        ws.echo(TEXT, text)
    ws.finish()


# ---- invalid ----

@cases(INVALID)
def test_8_1_invalid_text_fails_the_connection(ws, data):
    ws.expect_failure(1007, ws.make(TEXT, data))


@cases(INVALID)
def test_8_1_invalid_text_in_fragments_of_one_octet_fails_the_connection(ws, data):
    ws.expect_failure(1007, *octet_fragments(ws, data))


@pytest.mark.parametrize("around", [b"x" * 63, "é".encode() * 500], ids=["ascii", "two"])
@cases(INVALID)
def test_8_1_invalid_text_amid_valid_text_fails_the_connection(ws, data, around):
    ws.expect_failure(1007, ws.make(TEXT, around + data + around))


@in_every_way
@cases(TRUNCATED)
def test_8_1_text_that_ends_within_a_character_fails_the_connection(ws, data, how):
    ws.expect_failure(1007, ws.make(TEXT, b"text " + data), how=how)


@cases(TRUNCATED)
def test_8_1_a_fragmented_message_that_ends_within_a_character_fails_the_connection(ws, data):
    ws.expect_failure(1007, *octet_fragments(ws, data))


@cases(TRUNCATED)
def test_8_1_the_next_message_does_not_complete_a_character(ws, data):
    ws.expect_failure(1007, ws.make(TEXT, data), ws.make(TEXT, b"\x80"))


# ---- at once ----

@cases(INVALID)
def test_8_1_the_connection_fails_at_the_first_impossible_octet_of_a_frame(ws, data):
    """Nothing behind that octet is sent."""
    whole = ws.make(TEXT, b"valid, then " + data + b" and more")
    header = len(whole) - len(b"valid, then " + data + b" and more")
    ws.send(whole[:header + len(b"valid, then ") + first_fault(data) + 1])
    ws.expect_close(1007)


@cases(INVALID)
def test_8_1_the_connection_fails_at_the_first_impossible_octet_of_a_fragment(ws, data):
    at = first_fault(data)
    ws.send(ws.make(TEXT, b"valid, then ", fin=False) + b"".join(
        ws.make(CONT, data[i:i + 1], fin=False) for i in range(at + 1)))
    ws.expect_close(1007)


@cases(INVALID)
def test_8_1_the_connection_does_not_fail_before_the_first_impossible_octet(ws, data):
    at = first_fault(data)
    ws.send(ws.make(TEXT, data[:at], fin=False) + ws.make(PING, "still here"))
    assert ws.frame() == Frame(PONG, b"still here")
    ws.send_frame(CONT, data[at:at + 1], fin=False)
    ws.expect_close(1007)


@pytest.mark.parametrize("first", [0xe0, 0xed, 0xf0, 0xf4])
def test_8_1_the_second_octet_decides(connect, first):
    """Of those that may follow in general, each in turn: it is waited for what follows, or the connection fails."""
    length = 3 if first < 0xf0 else 4
    good = connect()
    for second in range(0x80, 0xc0):
        if second in SECOND[first]:
            good.echo(TEXT, bytes([first, second]) + b"\x80" * (length - 2))
        elif LONG or second in (0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf):
            bad = connect()
            bad.send_frame(TEXT, bytes([first, second]), fin=False)
            bad.expect_close(1007)
    good.finish()


@pytest.mark.long
@pytest.mark.parametrize("first", range(256))
def test_8_1_every_pair_of_octets(connect, first):
    for second in range(256):
        data = bytes([first, second])
        ws = connect()
        at = first_fault(data)
        ws.send(ws.make(TEXT, data[:at + 1], fin=False) + ws.make(PING))
        if at == 2:
            assert ws.frame() == Frame(PONG)
            ws.finish()
        else:
            ws.expect_close(1007)


@pytest.mark.parametrize("size", [1000, 70_000, pytest.param(1 << 22, marks=pytest.mark.long)])
def test_8_1_a_fault_far_into_a_frame_is_found_before_its_end(ws, size):
    data = ws.make(TEXT, b"x" * size + b"\xff" + b"x" * size)
    ws.send(data[:len(data) - size], 1021)
    ws.expect_close(1007)
