# SPDX-License-Identifier: MIT
"""Frames and messages on the wire (RFC 6455, 5 and 8), byte by byte, against an echo."""
import os

import pytest

from conftest import ACCEPT, BINARY_OP, CLOSE, CONT, KEY, PING, PONG, TEXT, close_payload, frame

ECHO = """
app.websocket("echo", function(ws)
  ws:on_text(function(_, text) ws:send(text) end)
  ws:on_binary(function(_, bytes) ws:send_binary(bytes) end)
end)
"""

HANDSHAKE = (f"GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode()

MASKS = {"zero": b"\0\0\0\0", "ones": b"\xff\xff\xff\xff", "mixed": b"\x00\x80\x7f\x01"}


@pytest.fixture
def echo(serve):
    return serve(ECHO, max_message="2m")


def check_alive(client, word="still here"):
    client.send_frame(TEXT, word)
    assert client.frame() == (TEXT, word.encode())


def check_refused(server, data, code):
    """The bytes, sent on a fresh WebSocket after a good message, end it with that close code and nothing else."""
    with server.raw("/echo") as client:
        client.send(frame(TEXT, "first") + data)
        assert client.text() == "first"
        client.expect_close(code)


# ---- how the bytes are cut ----

CONVERSATION = HANDSHAKE + b"".join([
    frame(TEXT, "grüße"), frame(BINARY_OP, bytes(range(130))), frame(TEXT, b""), frame(PING, b"are you there"),
    frame(TEXT, "a", fin=False), frame(PONG, b"unasked"), frame(PING, b""), frame(CONT, "bc"),
    frame(CLOSE, close_payload(4321, b"enough"))])


def check_conversation(client):
    assert client.response().headers["sec-websocket-accept"] == ACCEPT
    assert client.frame() == (TEXT, "grüße".encode())
    assert client.frame() == (BINARY_OP, bytes(range(130)))
    assert client.frame() == (TEXT, b"")
    assert client.frame() == (PONG, b"are you there")
    assert client.frame() == (PONG, b"")
    assert client.frame() == (TEXT, b"abc")
    client.expect_close(4321)


def test_a_whole_conversation_in_one_packet(echo):
    with echo.raw() as client:
        client.send(CONVERSATION)
        check_conversation(client)


def test_a_whole_conversation_byte_by_byte(echo):
    with echo.raw() as client:
        echo.send_apart(client, *(CONVERSATION[i:i + 1] for i in range(len(CONVERSATION))))
        check_conversation(client)


@pytest.mark.parametrize("part", range(4))
def test_a_whole_conversation_cut_in_two_at_every_byte(echo, part):
    for i in range(1 + part, len(CONVERSATION), 4):
        with echo.raw() as client:
            echo.send_apart(client, CONVERSATION[:i], CONVERSATION[i:])
            check_conversation(client)


@pytest.mark.parametrize("size", [16, 64])
def test_a_long_header_cut_at_every_byte(echo, size):
    payload = os.urandom(300 if size == 16 else 65536)
    data = frame(BINARY_OP, payload)
    with echo.raw("/echo") as client:
        for i in range(1, 2 + size // 8 + 4 + 5):
            echo.send_apart(client, data[:i], data[i:i + 1])
            client.send(data[i + 1:])
            assert client.frame() == (BINARY_OP, payload)


def test_frames_right_behind_the_handshake(echo):
    """Some clients do not wait for the 101."""
    with echo.raw() as client:
        client.send(HANDSHAKE + frame(TEXT, "early") + frame(PING, b"1")[:4])
        assert client.response().status == 101
        assert client.text() == "early"
        client.send(frame(PING, b"1")[4:])
        assert client.frame() == (PONG, b"1")


def test_more_behind_the_handshake_than_a_head_may_hold(serve):
    server = serve(ECHO, max_head=512)
    with server.raw() as client:
        client.send(HANDSHAKE + frame(TEXT, "x" * 5000) + frame(TEXT, "y"))
        assert client.response().status == 101
        assert client.text() == "x" * 5000
        assert client.text() == "y"


def test_many_frames_in_one_packet_are_answered_in_order(echo):
    with echo.raw("/echo") as client:
        client.send(b"".join(frame(PING, str(i)) if i % 3 == 0 else frame(TEXT, str(i)) for i in range(1000)))
        for i in range(1000):
            assert client.frame() == (PONG if i % 3 == 0 else TEXT, str(i).encode())


# ---- masks (5.1, 5.3) ----

@pytest.mark.parametrize("opcode", [TEXT, BINARY_OP, CLOSE, PING, PONG])
def test_unmasked_frames_are_refused_5_1(echo, opcode):
    check_refused(echo, frame(opcode, close_payload(1000), mask=None), 1002)
    check_refused(echo, frame(opcode, b"", mask=None), 1002)


def test_an_unmasked_fragment_is_refused_5_1(echo):
    check_refused(echo, frame(TEXT, "a", fin=False) + frame(CONT, "b", mask=None), 1002)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_any_mask_is_taken_off_at_any_alignment_5_3(echo, mask):
    with echo.raw("/echo") as client:
        for size in range(100):
            payload = bytes(range(size))
            data = frame(BINARY_OP, payload, mask=mask)
            client.send(data)
            assert client.frame() == (BINARY_OP, payload)
        for i in range(6, len(data), 7):
            echo.send_apart(client, data[:i], data[i:i + 3], data[i + 3:])
            assert client.frame() == (BINARY_OP, payload)


# ---- headers (5.2, 5.5) ----

@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY_OP, CLOSE, PING, PONG])
def test_reserved_bits_are_refused_5_2(echo, rsv, opcode):
    check_refused(echo, frame(opcode, close_payload(1000), rsv=rsv), 1002)


@pytest.mark.parametrize("rsv", [1, 2, 4])
def test_reserved_bits_in_a_continuation_are_refused_5_2(echo, rsv):
    check_refused(echo, frame(TEXT, "a", fin=False) + frame(CONT, "b", rsv=rsv), 1002)


def test_extensions_are_not_agreed_to_9_1(echo):
    with echo.raw() as client:
        client.handshake("/echo", sec_websocket_extensions="permessage-deflate; client_max_window_bits")
        answer = client.response()
        assert answer.status == 101
        assert "sec-websocket-extensions" not in answer.headers
        client.send(frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4))
        client.expect_close(1002)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("fin", [True, False])
def test_reserved_opcodes_are_refused_5_2(echo, opcode, fin):
    check_refused(echo, frame(opcode, b"", fin=fin), 1002)
    check_refused(echo, frame(opcode, b"", fin=fin, length=5), 1002)
    check_refused(echo, frame(TEXT, "a", fin=False) + frame(opcode, b"b", fin=fin), 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY_OP, PING, PONG, CLOSE])
@pytest.mark.parametrize("size, n", [(16, 0), (16, 2), (16, 125), (64, 0), (64, 125), (64, 126), (64, 65535)])
def test_lengths_in_a_longer_form_than_needed_are_refused_5_2(echo, opcode, size, n):
    check_refused(echo, frame(opcode, b"", length=n, size=size), 1002)


@pytest.mark.parametrize("length", [1 << 63, (1 << 63) + 5, (1 << 64) - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY_OP, PING])
def test_the_top_bit_of_a_64_bit_length_is_refused_5_2(echo, length, opcode):
    check_refused(echo, frame(opcode, b"", length=length, size=64), 1002)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("length", [126, 127, 65535, 65536, 1 << 62])
def test_control_frames_over_125_bytes_are_refused_from_the_header_5_5(echo, opcode, length):
    check_refused(echo, frame(opcode, b"", length=length), 1002)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
@pytest.mark.parametrize("payload", [b"", close_payload(1000)])
def test_fragmented_control_frames_are_refused_5_5(echo, opcode, payload):
    check_refused(echo, frame(opcode, payload, fin=False), 1002)
    check_refused(echo, frame(TEXT, "a", fin=False) + frame(opcode, payload, fin=False), 1002)


def test_nothing_behind_a_refused_frame_is_answered_7_1_7(echo):
    check_refused(echo, frame(3) + frame(PING, b"x") + frame(TEXT, "x") + frame(CLOSE, close_payload(1000)), 1002)


# ---- fragments (5.4) ----

@pytest.mark.parametrize("opcode", [TEXT, BINARY_OP])
@pytest.mark.parametrize("pieces", [
    ["", ""], ["", "a"], ["a", ""], ["", "", ""], ["a", "b"], ["a", "", "b"], ["", "a", "", "b", ""],
    ["x" * 4096, "y" * 4096], ["x" * 4095, "y", "z" * 4097], ["x" * 70000, "y" * 200], list("one byte at a time")],
    ids=lambda pieces: "+".join(str(len(piece)) for piece in pieces))
def test_fragments_are_put_together_5_4(echo, opcode, pieces):
    with echo.raw("/echo") as client:
        for _ in range(2):
            for i, piece in enumerate(pieces):
                client.send_frame(CONT if i else opcode, piece, fin=i == len(pieces) - 1)
            assert client.frame() == (opcode, "".join(pieces).encode())
        check_alive(client)


def test_a_continuation_without_a_start_is_refused_5_4(echo):
    for fin in (True, False):
        check_refused(echo, frame(CONT, "a", fin=fin), 1002)
        check_refused(echo, frame(CONT, b"", fin=fin), 1002)


def test_a_continuation_after_the_end_of_a_message_is_refused_5_4(echo):
    with echo.raw("/echo") as client:
        client.send(frame(TEXT, "a", fin=False) + frame(CONT, "b") + frame(CONT, "c"))
        assert client.text() == "ab"
        client.expect_close(1002)


@pytest.mark.parametrize("first", [TEXT, BINARY_OP])
@pytest.mark.parametrize("second", [TEXT, BINARY_OP])
@pytest.mark.parametrize("fin", [True, False])
def test_a_new_message_within_a_message_is_refused_5_4(echo, first, second, fin):
    check_refused(echo, frame(first, b"", fin=False) + frame(second, b"", fin=fin), 1002)
    check_refused(echo, frame(first, "a", fin=False) + frame(CONT, "b", fin=False) + frame(second, "c", fin=fin), 1002)


def test_a_ping_between_fragments_is_answered_before_the_message_ends_5_4(echo):
    with echo.raw("/echo") as client:
        client.send_frame(TEXT, "to be ", fin=False)
        client.send_frame(PING, b"between")
        assert client.frame() == (PONG, b"between")
        client.send_frame(CONT, "con", fin=False)
        client.send(frame(PING, b"1") + frame(PONG, b"2") + frame(PING, b"3"))
        assert client.frame() == (PONG, b"1")
        assert client.frame() == (PONG, b"3")
        client.send_frame(CONT, "tinued")
        assert client.text() == "to be continued"


def test_control_frames_cut_at_every_byte_between_fragments_5_4(echo):
    control = frame(PING, b"0123456789") + frame(PONG, b"9876543210")
    for i in range(1, len(control)):
        with echo.raw("/echo") as client:
            echo.send_apart(client, frame(TEXT, "a", fin=False), control[:i], control[i:])
            assert client.frame() == (PONG, b"0123456789")
            client.send_frame(CONT, "b")
            assert client.text() == "ab"


def test_a_close_between_fragments_is_answered_5_4(echo):
    with echo.raw("/echo") as client:
        client.send(frame(TEXT, "never finished", fin=False) + frame(CLOSE, close_payload(1001)))
        client.expect_close(1001)


# ---- sizes ----

@pytest.mark.parametrize("n", [0, 1, 125, 126, 127, 4095, 4096, 4097, 65535, 65536, 1 << 20])
def test_messages_of_every_form_of_length_5_2(echo, n):
    text = ("0123456789" * (n // 10 + 1))[:n]
    data = os.urandom(n)
    with echo.raw("/echo") as client:
        client.send_frame(TEXT, text)
        assert client.text() == text
        client.send_frame(BINARY_OP, data)
        assert client.frame() == (BINARY_OP, data)
        half = n // 2
        client.send(frame(BINARY_OP, data[:half], fin=False) + frame(CONT, data[half:]))
        assert client.frame() == (BINARY_OP, data)


# ---- limits (10.4) ----

@pytest.fixture
def small(serve):
    return serve(ECHO, max_message=1000)


@pytest.mark.parametrize("opcode", [TEXT, BINARY_OP])
@pytest.mark.parametrize("pieces", [[1000], [600, 400], [0, 1000, 0], [999, 0, 1, 0], [1] * 1000],
                         ids=["whole", "halves", "empty", "last", "ones"])
def test_a_message_of_exactly_max_message_is_fine(small, opcode, pieces):
    with small.raw("/echo") as client:
        for _ in range(2):
            client.send(b"".join(frame(CONT if i else opcode, "x" * n, fin=i == len(pieces) - 1)
                                 for i, n in enumerate(pieces)))
            assert client.frame() == (opcode, b"x" * 1000)


@pytest.mark.parametrize("opcode", [TEXT, BINARY_OP])
@pytest.mark.parametrize("length", [1001, 65535, 65536, 1 << 32, (1 << 63) - 1])
@pytest.mark.parametrize("fin", [True, False])
def test_a_frame_over_max_message_is_refused_from_its_header(small, opcode, length, fin):
    check_refused(small, frame(opcode, b"", fin=fin, length=length), 1009)


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("before, length", [
    ([1000], 1), ([600], 401), ([600, 0, 399], 2), ([1], 1000), ([1], (1 << 63) - 1), ([1] * 999, 2)],
    ids=["full", "second", "fourth", "by one", "huge", "thousandth"])
def test_fragments_over_max_message_are_refused_from_the_header(small, fin, before, length):
    data = b"".join(frame(CONT if i else BINARY_OP, b"x" * n, fin=False) for i, n in enumerate(before))
    check_refused(small, data + frame(CONT, b"", fin=fin, length=length), 1009)


def test_control_frames_do_not_count_towards_max_message(small):
    with small.raw("/echo") as client:
        client.send_frame(BINARY_OP, b"x" * 999, fin=False)
        for _ in range(20):
            client.send_frame(PING, b"y" * 125)
            assert client.frame() == (PONG, b"y" * 125)
        client.send_frame(CONT, b"z")
        assert client.frame() == (BINARY_OP, b"x" * 999 + b"z")


def test_max_message_counts_bytes_not_characters(small):
    with small.raw("/echo") as client:
        client.send_frame(TEXT, "é" * 500)
        assert client.text() == "é" * 500
        client.send_frame(TEXT, "é" * 501)
        client.expect_close(1009)


def test_memory_grows_with_what_arrived_not_with_what_was_announced(serve):
    server = serve(ECHO, max_message="1g")
    with server.raw("/echo") as client:
        server.send_apart(client, frame(BINARY_OP, b"x" * 100, fin=False, length=1 << 29), b"y")
        assert 0 < server.metrics()["tidewire_reassembly_bytes"] <= 65536
        assert server.metrics()["tidewire_frame_contexts"] == 1
    server.wait_metric("tidewire_connections", 0)
    assert server.metrics()["tidewire_reassembly_bytes"] == 0
    assert server.metrics()["tidewire_frame_contexts"] == 0


# ---- pings and pongs (5.5.2, 5.5.3) ----

def test_pings_of_every_size_come_back_unchanged_and_in_order_5_5_2(echo):
    payloads = [os.urandom(n) for n in range(126)]
    with echo.raw("/echo") as client:
        client.send(b"".join(frame(PING, payload) for payload in payloads))
        for payload in payloads:
            assert client.frame() == (PONG, payload)
        check_alive(client)


def test_the_largest_ping_cut_at_every_byte_5_5_2(echo):
    data = frame(PING, os.urandom(125))
    with echo.raw("/echo") as client:
        for i in range(1, len(data)):
            echo.send_apart(client, data[:i], data[i:])
            assert client.frame() == (PONG, bytes(b ^ data[2 + j % 4] for j, b in enumerate(data[6:])))


def test_unsolicited_pongs_are_ignored_5_5_3(echo):
    with echo.raw("/echo") as client:
        client.send(b"".join(frame(PONG, b"p" * n) for n in range(126)))
        check_alive(client)


def test_a_ping_is_not_checked_for_utf8_5_5_2(echo):
    with echo.raw("/echo") as client:
        client.send_frame(PING, b"\xff\xc0\x80")
        assert client.frame() == (PONG, b"\xff\xc0\x80")


# ---- UTF-8 (8.1) ----

# Both ends of each length of encoding, both sides of the surrogates, characters that are none.
BOUNDARIES = ("\0\x7f\u0080\u07ff\u0800\ud7ff\ue000\ufdd0\ufeff\ufffd\ufffe\uffff"
              "\U00010000\U0001fffe\U000fffff\U00100000\U0010ffff")

# What no continuation can mend, and the offset of the first byte that is impossible where it stands.
BAD = {
    "lone continuation 80": (b"\x80", 0),
    "lone continuation bf": (b"\xbf", 0),
    "overlong c0": (b"\xc0\x80", 0),
    "overlong c1": (b"\xc1\xbf", 0),
    "overlong e0 80": (b"\xe0\x80\x80", 1),
    "overlong e0 9f": (b"\xe0\x9f\xbf", 1),
    "overlong f0 80": (b"\xf0\x80\x80\x80", 1),
    "overlong f0 8f": (b"\xf0\x8f\xbf\xbf", 1),
    "surrogate d800": (b"\xed\xa0\x80", 1),
    "surrogate dfff": (b"\xed\xbf\xbf", 1),
    "surrogate pair": (b"\xed\xa0\xbd\xed\xb8\x80", 1),
    "beyond 10ffff f4": (b"\xf4\x90\x80\x80", 1),
    "beyond 10ffff f5": (b"\xf5\x80\x80\x80", 0),
    "five bytes": (b"\xf8\x88\x80\x80\x80", 0),
    "six bytes": (b"\xfc\x84\x80\x80\x80\x80", 0),
    "fe": (b"\xfe", 0),
    "ff": (b"\xff", 0),
    "cut after one of two": (b"\xc3(", 1),
    "cut after one of three": (b"\xe2(", 1),
    "cut after two of three": (b"\xe2\x82(", 2),
    "cut after one of four": (b"\xf0(", 1),
    "cut after three of four": (b"\xf0\x9f\x98(", 3),
    "one character begun in another": (b"\xe2\x82\xc3\xa9", 2),
}
bad_utf8 = pytest.mark.parametrize("bad, offset", BAD.values(), ids=BAD.keys())

UNFINISHED = [b"\xc3", b"\xe2", b"\xe2\x82", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98", b"\xf4\x8f\xbf"]


def test_valid_text_in_two_fragments_split_at_every_byte_8_1(echo):
    text = BOUNDARIES.encode()
    with echo.raw("/echo") as client:
        for i in range(len(text) + 1):
            client.send(frame(TEXT, text[:i], fin=False) + frame(CONT, text[i:]))
            assert client.frame() == (TEXT, text)


def test_valid_text_in_one_byte_fragments_with_pings_between_8_1(echo):
    text = BOUNDARIES.encode()
    with echo.raw("/echo") as client:
        for i in range(len(text)):
            client.send(frame(CONT if i else TEXT, text[i:i + 1], fin=False) + frame(PING, b"?"))
            assert client.frame() == (PONG, b"?")
        client.send_frame(CONT, b"")
        assert client.frame() == (TEXT, text)


def test_valid_text_in_two_packets_split_at_every_byte_8_1(echo):
    text = BOUNDARIES.encode()
    data = frame(TEXT, text)
    with echo.raw("/echo") as client:
        for i in range(1, len(data)):
            echo.send_apart(client, data[:i], data[i:])
            assert client.frame() == (TEXT, text)


@pytest.mark.parametrize("character", ["é", "€", "😀"])
def test_characters_across_the_pieces_in_which_a_frame_is_read_8_1(echo, character):
    with echo.raw("/echo") as client:
        for around in (16, 32, 64, 4096, 8192):
            for n in range(around - 14, around + 2):
                text = "a" * n + character + "b" * 40
                client.send(frame(TEXT, text) + frame(TEXT, text[:n // 2], fin=False) + frame(CONT, text[n // 2:]))
                assert client.text() == text
                assert client.text() == text


@pytest.mark.parametrize("bad", [bad for bad, _ in BAD.values()], ids=BAD.keys())
def test_invalid_text_in_one_frame_8_1(echo, bad):
    for before in (b"", b"ok", "é€😀".encode(), b"a" * 29, b"a" * 32, b"a" * 4094):
        for after in (b"", b" and on", b"a" * 64):
            check_refused(echo, frame(TEXT, before + bad + after), 1007)


@bad_utf8
def test_invalid_text_in_two_fragments_split_at_every_byte_8_1(echo, bad, offset):
    before = "é ".encode()
    text = before + bad + b" tail"
    impossible = len(before) + offset
    for i in range(len(text) + 1):
        first, second = frame(TEXT, text[:i], fin=False), frame(CONT, text[i:])
        with echo.raw("/echo") as client:
            if i <= impossible:  # so far it can still become text
                client.send(first + frame(PING, b"fine so far"))
                assert client.frame() == (PONG, b"fine so far")
                client.send(second)
            else:  # the message is not over, yet it is lost
                client.send(first)
            client.expect_close(1007)


@bad_utf8
def test_invalid_text_ends_at_its_first_impossible_byte_across_fragments_8_1(echo, bad, offset):
    text = "é".encode() + bad[:offset + 1]
    with echo.raw("/echo") as client:
        for i in range(len(text) - 1):
            client.send(frame(CONT if i else TEXT, text[i:i + 1], fin=False) + frame(PING, b"fine so far"))
            assert client.frame() == (PONG, b"fine so far")
        client.send_frame(CONT if len(text) > 1 else TEXT, text[-1:], fin=False)
        client.expect_close(1007)


@bad_utf8
@pytest.mark.parametrize("announced", [125, 60000, 100000])
def test_invalid_text_ends_at_its_first_impossible_byte_in_a_frame_whose_rest_never_comes_8_1(
        echo, bad, offset, announced):
    begun = "é".encode() + bad[:offset + 1]
    with echo.raw("/echo") as client:
        client.send(frame(TEXT, begun, length=announced))
        client.expect_close(1007)
    data = frame(TEXT, begun, length=announced)
    header = len(data) - len(begun)
    for i in range(header, len(data)):
        with echo.raw("/echo") as client:
            echo.send_apart(client, data[:i], data[i:])
            client.expect_close(1007)


@pytest.mark.parametrize("end", UNFINISHED, ids=lambda end: end.hex())
def test_text_that_ends_within_a_character_8_1(echo, end):
    check_refused(echo, frame(TEXT, end), 1007)
    check_refused(echo, frame(TEXT, b"a" * 5000 + end), 1007)
    check_refused(echo, frame(TEXT, b"", fin=False) + frame(CONT, end), 1007)
    check_refused(echo, frame(TEXT, end, fin=False) + frame(CONT, b""), 1007)
    check_refused(echo, frame(TEXT, end, fin=False) + frame(CONT, b"", fin=False) + frame(CONT, b"a"), 1007)


@pytest.mark.parametrize("between", [32, 64, 4096])
def test_a_character_does_not_go_on_behind_ascii_8_1(echo, between):
    for n in range(28, 34):
        check_refused(echo, frame(TEXT, b"a" * n + b"\xc3" + b"b" * between + b"\xa9"), 1007)
        check_refused(echo, frame(TEXT, b"a" * n + b"\xc3", fin=False) + frame(CONT, b"b" * between + b"\xa9"), 1007)


def test_a_character_does_not_go_on_in_the_next_message_8_1(echo):
    check_refused(echo, frame(TEXT, b"\xc3") + frame(TEXT, b"\xa9"), 1007)
    check_refused(echo, frame(TEXT, b"\xa9"), 1007)


@bad_utf8
def test_binary_is_not_checked_for_utf8_5_6(echo, bad, offset):
    with echo.raw("/echo") as client:
        client.send_frame(BINARY_OP, bad)
        assert client.frame() == (BINARY_OP, bad)
        client.send(frame(BINARY_OP, bad[:offset], fin=False) + frame(CONT, bad[offset:]))
        assert client.frame() == (BINARY_OP, bad)
        check_alive(client, BOUNDARIES)
