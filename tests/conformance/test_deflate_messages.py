# SPDX-License-Identifier: MIT
"""Compressed messages, in both directions (RFC 7692, 6 and 7.2), with every set of parameters."""
import json
import zlib

import pytest

from cases import HELLO, LONG, SETS, in_every_way
from deflate import Bits, Codec, farthest, stored
from peer import BINARY, CLOSE, CONT, PING, PONG, RSV1, TEXT, Frame, close_payload, dice

KIB = 1 << 10
every_set = pytest.mark.parametrize("params", SETS.values(), ids=SETS)


@pytest.fixture
def ws(agree):
    return agree()


# ---- data ----

def json_text(size):
    pieces, length = [], 0
    while length < size:
        pieces.append(json.dumps({
            "id": dice.getrandbits(24), "port": dice.choice(["Brest", "Cuxhaven", "Dover", "Vigo"]),
            "level": dice.random(), "tide": dice.choice(["low", "high"]), "at": [len(pieces)] * 3}))
        length += len(pieces[-1])
    return "\n".join(pieces).encode()


LAKE = json_text(1 << 19)
DATA = {
    "json": lambda size, at=0: LAKE[at % (len(LAKE) - size):][:size],
    "random": lambda size, at=0: dice.randbytes(size),
    "repetitive": lambda size, at=0: (b"%d high tide " % at * (size // 10 + 1))[:size],
    "one octet": lambda size, at=0: bytes([at % 256]) * size,
}
SIZES = [16, 64, 256, KIB, 4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB]


def exchange(ws, kind, size, count):
    ws.codec.level = 1  # to be quick; the bits are as right as with any other
    ws.codec.reset_sender()
    opcode = BINARY if kind in ("random", "one octet") else TEXT
    for i in range(count):
        ws.echo(opcode, DATA[kind](size, i * 7919))
    ws.finish()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", DATA)
def test_7692_7_2_messages_of_every_kind_and_size_are_echoed(ws, kind, size):
    exchange(ws, kind, size, 1000 if LONG else 5)


@every_set
def test_7692_7_2_messages_are_echoed_with_every_set_of_parameters(agree, params):
    ws = agree(params)
    for size in [0, 1, *SIZES[::2], 15, 70_000, 100]:
        for kind in DATA:
            opcode = BINARY if kind in ("random", "one octet") else TEXT
            ws.echo(opcode, DATA[kind](size, size))
            if ws.compressed is not None and size <= 4 * KIB:
                assert farthest(ws.compressed) <= 1 << ws.codec.receive_bits
    ws.finish()


@pytest.mark.long
@every_set
@pytest.mark.parametrize("size", SIZES)
def test_7692_7_2_a_thousand_messages_with_every_set_of_parameters(agree, params, size):
    exchange(agree(params), "json", size, 1000)


@pytest.mark.parametrize("level", range(0, 10, 1 if LONG else 3))
def test_7692_7_2_1_any_level_of_the_peer_is_understood(ws, level):
    ws.codec.level = level
    ws.codec.reset_sender()
    for kind in DATA:
        ws.echo(BINARY, DATA[kind](10_000))
    ws.finish()


def test_7692_7_2_many_compressed_messages_at_once_are_echoed_in_order(ws):
    messages = [DATA["json"](i, i * 31) for i in range(300)]
    ws.send(b"".join(ws.pack(TEXT, message) for message in messages))
    for message in messages:
        assert ws.message() == (TEXT, message)
    ws.finish()


@in_every_way
def test_7692_7_2_compressed_frames_may_be_chopped(ws, how):
    ws.send_in(how, ws.pack(TEXT, "low tide, high tide, low tide"), ws.pack(BINARY, bytes(100)))
    assert ws.message() == (TEXT, b"low tide, high tide, low tide")
    assert ws.message() == (BINARY, bytes(100))
    ws.finish()


# ---- what Tidewire sends (6.1, 7.2.1) ----

def test_7692_6_1_a_long_message_is_sent_compressed(ws):
    """The RFC leaves it to the sender which messages it compresses; this is Tidewire's word."""
    ws.echo(TEXT, b"high tide " * 1000)
    assert ws.compressed is not None and len(ws.compressed) < 1000
    ws.finish()


def test_7692_7_2_1_a_payload_does_not_end_with_the_tail_that_is_to_be_removed(ws):
    for i in range(50):
        ws.echo(TEXT, b"high tide %d " % i * (i + 2))
        assert ws.compressed is None or not ws.compressed.endswith(b"\x00\x00\xff\xff")
    ws.finish()


def test_7692_7_1_1_a_context_that_is_kept_makes_the_second_message_smaller(ws):
    data = DATA["json"](2000)
    ws.echo(TEXT, data)
    first = len(ws.compressed)
    ws.echo(TEXT, data)
    assert len(ws.compressed) < first / 10
    ws.finish()


def test_7692_7_1_1_a_context_that_is_not_kept_makes_equal_messages_of_equal_data(agree, role):
    ws = agree(SETS["no takeover"])
    data, seen = DATA["json"](2000), set()
    for other in (b"", b"low tide " * 300, DATA["json"](50_000, 999)):
        ws.echo(TEXT, data)
        seen.add(ws.compressed)
        assert Codec().unpack(ws.compressed) == data
        ws.echo(TEXT, other)
    assert len(seen) == 1
    ws.finish()


@pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "no takeover"])
@pytest.mark.parametrize("bits", range(8, 16))
def test_7692_7_1_2_the_window_that_was_agreed_upon_is_never_left(agree, role, bits, takeover):
    """Data that could be said more briefly by going farther back: blocks of noise that come again and again."""
    ws = agree(f"; {role}_max_window_bits={bits}" + ("" if takeover else SETS["no takeover"]))
    assert ws.agreed[f"{role}_max_window_bits"] <= bits
    noise = [dice.randbytes(90) for _ in range(16)]
    far = 0
    for _ in range(3):
        data = b"".join(noise[(i * i) % 16] for i in range(30)) + b"".join(
            dice.randbytes((1 << n) - 90) + noise[0] for n in range(8, 14))
        ws.echo(BINARY, data)
        if ws.compressed is not None:
            far = max(far, farthest(ws.compressed))
    assert far <= 1 << bits
    ws.finish()


def test_7692_7_1_2_the_window_is_used(agree, role):
    """Else the test above would show nothing."""
    ws = agree(f"; {role}_max_window_bits=15")
    noise = dice.randbytes(2000)
    ws.echo(BINARY, noise + dice.randbytes(20_000) + noise * 3)
    assert farthest(ws.compressed) > 20_000
    ws.finish()


# ---- examples (7.2.3) ----

def send_payload(ws, payload, opcode=TEXT):
    ws.send_frame(opcode, payload, rsv=RSV1)


def test_7692_7_2_3_1_one_compressed_block(ws):
    send_payload(ws, HELLO)
    assert ws.message() == (TEXT, b"Hello")
    ws.finish()


@in_every_way
def test_7692_7_2_3_1_one_compressed_block_in_two_fragments(ws, how):
    ws.send_in(how, ws.make(TEXT, HELLO[:3], fin=False, rsv=RSV1), ws.make(CONT, HELLO[3:]))
    assert ws.message() == (TEXT, b"Hello")
    ws.finish()


def test_7692_7_2_3_2_the_second_message_refers_to_the_first(ws):
    send_payload(ws, HELLO)
    assert ws.message() == (TEXT, b"Hello")
    send_payload(ws, bytes.fromhex("f200110000"))
    assert ws.message() == (TEXT, b"Hello")
    ws.finish()


def test_7692_7_2_3_3_a_block_without_compression(ws):
    send_payload(ws, bytes.fromhex("000500faff48656c6c6f00"))
    assert ws.message() == (TEXT, b"Hello")
    ws.finish()


@pytest.mark.parametrize("size", [0, 1, 1000, 65535, 65536, 200_000])
def test_7692_7_2_3_3_blocks_without_compression_of_any_length(ws, size):
    data = dice.randbytes(size)
    send_payload(ws, stored(data) + b"\x00", BINARY)
    assert ws.message() == (BINARY, data)
    ws.finish()


def test_7692_7_2_3_4_a_block_with_bfinal(ws):
    for _ in range(3):
        send_payload(ws, bytes.fromhex("f348cdc9c9070000"))
        assert ws.message() == (TEXT, b"Hello")
    ws.echo(TEXT, "and an ordinary one")
    ws.finish()


@pytest.mark.parametrize("size", [0, 1, 100, 10_000, 100_000])
def test_7692_7_2_3_4_messages_that_zlib_has_finished(ws, size):
    for kind in DATA:
        data = DATA[kind](size)
        encoder = zlib.compressobj(wbits=-15)
        send_payload(ws, encoder.compress(data) + encoder.flush(zlib.Z_FINISH) + b"\x00", BINARY)
        assert ws.message() == (BINARY, data)
    ws.finish()


def test_7692_7_2_1_a_block_follows_one_with_bfinal_at_the_next_byte(ws):
    """After such a block, "an endpoint MUST add minimal padding bits of 0 to make it end at a byte boundary. The next
    DEFLATE block follows the padded data if any.\""""
    final = zlib.compressobj(wbits=-15)
    first = final.compress(b"Hello, ") + final.flush(zlib.Z_FINISH)
    send_payload(ws, first + stored(b"low ", final=True) + first + Codec().pack(b"tide"))
    assert ws.message() == (TEXT, b"Hello, low Hello, tide")
    ws.finish()


def test_7692_7_2_3_5_two_blocks_in_one_message(ws):
    send_payload(ws, bytes.fromhex("f248050000 00ffff cac9c90700"))
    assert ws.message() == (TEXT, b"Hello")
    ws.finish()


def test_7692_7_2_3_5_a_thousand_blocks_in_one_message(ws):
    codec = Codec()
    send_payload(ws, b"\x00\x00\xff\xff".join(codec.pack(b"%d." % i) for i in range(1000)))
    assert ws.message() == (TEXT, b"".join(b"%d." % i for i in range(1000)))
    ws.finish()


@pytest.mark.parametrize("payload", [b"\x00", b"\x02\x00", stored(b"") + b"\x00", b"\x03\x00\x00"],
                         ids=["one octet", "an empty block", "an empty stored block", "an empty block with BFINAL"])
def test_7692_7_2_3_6_an_empty_message(ws, payload):
    for opcode in (TEXT, BINARY, TEXT):
        send_payload(ws, payload, opcode)
        assert ws.message() == (opcode, b"")
    ws.echo(TEXT, "and one that is not")
    ws.finish()


@in_every_way
def test_7692_7_2_3_6_an_empty_message_in_fragments(ws, how):
    ws.send_in(how, ws.make(TEXT, b"", fin=False, rsv=RSV1), ws.make(CONT, b"", fin=False), ws.make(CONT, b"\x00"))
    assert ws.message() == (TEXT, b"")
    ws.finish()


# ---- windows and contexts of the peer's ----

@pytest.mark.parametrize("bits", range(8, 16))
def test_7692_7_1_2_a_reference_as_far_back_as_was_agreed_upon_is_understood(agree, role, bits):
    """Within a message, and into the one before."""
    other = "client" if role == "server" else "server"
    ws = agree(f"; {other}_max_window_bits={bits}")
    size = 1 << ws.codec.send_bits
    data = dice.randbytes(size)
    send_payload(ws, stored(data) + Bits().fixed().reference(size).end().finish(), BINARY)
    assert ws.message() == (BINARY, data + data[:3])
    send_payload(ws, Bits().fixed().reference(size).end().finish(), BINARY)
    assert ws.message() == (BINARY, data[3:6])
    ws.finish()


def test_7692_7_1_1_a_context_reaches_over_many_messages(ws):
    ws.echo(TEXT, "the first of them, which is not forgotten")
    for _ in range(200):
        ws.echo(BINARY, dice.randbytes(100))
    ws.echo(TEXT, "the first of them, which is not forgotten")
    ws.finish()


def test_7692_6_uncompressed_messages_between_compressed_ones_do_not_belong_to_the_context(ws):
    """6.1 and 7.2: RSV1 says of each message whether it went through DEFLATE; what did not is in no window."""
    for i in range(5):
        send_payload(ws, ws.codec.pack(b"Hello, compressed"))
        assert ws.message() == (TEXT, b"Hello, compressed")
        ws.send_frame(TEXT, "Hello, uncompressed")
        assert ws.message() == (TEXT, b"Hello, uncompressed")
        ws.send(ws.make(BINARY, b"in ", fin=False) + ws.make(CONT, b"fragments"))
        assert ws.message() == (BINARY, b"in fragments")
    ws.finish()


@pytest.mark.parametrize("params", [SETS["defaults"], SETS["no takeover"]], ids=["takeover", "no takeover"])
def test_7692_6_only_uncompressed_messages(agree, params):
    ws = agree(params)
    for size in (0, 1, 100, 1000, 70_000):
        ws.send_frame(TEXT, b"x" * size)
        assert ws.message() == (TEXT, b"x" * size)
    ws.finish()


# ---- fragments (6.1, 6.2) ----

@every_set
@pytest.mark.parametrize("fragment", [1, 7, 100, KIB, 64 * KIB])
def test_7692_6_1_only_the_first_fragment_has_rsv1(agree, params, fragment):
    ws = agree(params)
    for kind in DATA:
        data = DATA[kind](3000)
        payload = ws.codec.pack(data)
        pieces = [payload[at:at + fragment] for at in range(0, len(payload), fragment)]
        ws.send(b"".join(ws.make(CONT if i else BINARY, piece, fin=i == len(pieces) - 1, rsv=0 if i else RSV1)
                         for i, piece in enumerate(pieces)))
        assert ws.message() == (BINARY, data)
    ws.finish()


@in_every_way
def test_7692_6_1_empty_fragments_of_a_compressed_message(ws, how):
    ws.send_in(how, ws.make(TEXT, b"", fin=False, rsv=RSV1), ws.make(CONT, HELLO[:2], fin=False),
               ws.make(CONT, b"", fin=False), ws.make(CONT, HELLO[2:], fin=False), ws.make(CONT, b""))
    assert ws.message() == (TEXT, b"Hello")
    ws.finish()


@in_every_way
def test_7692_6_1_control_frames_between_the_fragments_of_a_compressed_message(ws, how):
    """They are never compressed: "PMCEs operate only on data messages" (4)."""
    ws.send_in(how, ws.make(TEXT, HELLO[:3], fin=False, rsv=RSV1), ws.make(PING, HELLO))
    assert ws.frame() == Frame(PONG, HELLO)
    ws.send_in(how, ws.make(CONT, HELLO[3:5], fin=False), ws.make(PONG, "unasked"), ws.make(PING, ""))
    assert ws.frame() == Frame(PONG)
    ws.send_in(how, ws.make(CONT, HELLO[5:]))
    assert ws.message() == (TEXT, b"Hello")
    ws.finish()


def test_7692_6_1_a_message_may_be_flushed_at_each_fragment(ws):
    codec = Codec()
    pieces = [codec.pack(b"piece %d, " % i) for i in range(20)]
    ws.send(b"".join(ws.make(CONT if i else TEXT, piece + (b"\x00\x00\xff\xff" if i < 19 else b""), fin=i == 19,
                             rsv=0 if i else RSV1) for i, piece in enumerate(pieces)))
    assert ws.message() == (TEXT, b"".join(b"piece %d, " % i for i in range(20)))
    ws.finish()


@in_every_way
def test_7692_4_a_close_is_not_compressed_and_may_come_within_a_compressed_message(ws, how):
    ws.send_in(how, ws.make(TEXT, HELLO[:3], fin=False, rsv=RSV1), ws.make(CLOSE, close_payload(4000, b"enough")))
    ws.expect_close(4000)
