# SPDX-License-Identifier: MIT
"""DEFLATE for the tests (RFC 1951, RFC 7692): messages in and out, blocks made by hand, how far back data refers."""
import struct
import zlib

TAIL = b"\x00\x00\xff\xff"  # of an empty stored block, taken off and put back (RFC 7692, 7.2.1)


class Codec:
    """One end's part in permessage-deflate as it was agreed upon."""

    def __init__(self, send_bits=15, receive_bits=15, send_takeover=True, receive_takeover=True, level=6):
        self.send_bits, self.receive_bits, self.level = send_bits, receive_bits, level
        self.send_takeover, self.receive_takeover = send_takeover, receive_takeover
        self.reset_sender()
        self.decoder = zlib.decompressobj(-receive_bits)

    def reset_sender(self):
        """zlib makes no raw stream with a window of 256 bytes; with runs only it refers one byte back at most."""
        small = self.send_bits == 8
        self.encoder = zlib.compressobj(self.level, wbits=-9 if small else -self.send_bits,
                                        strategy=zlib.Z_RLE if small else zlib.Z_DEFAULT_STRATEGY)

    def pack(self, data):
        """A message's payload (7.2.1)."""
        payload = self.encoder.compress(data) + self.encoder.flush(zlib.Z_SYNC_FLUSH)
        assert payload.endswith(TAIL)
        if not self.send_takeover:
            self.reset_sender()
        return payload[:-4]

    def unpack(self, payload):
        """A message's data (7.2.2); raises for what does not fit what was agreed upon."""
        if not self.receive_takeover:
            self.decoder = zlib.decompressobj(-self.receive_bits)
        data = self.decoder.decompress(payload + TAIL)
        assert not self.decoder.eof, "a block with BFINAL"  # allowed, but nothing that Tidewire has a use for
        return data


# ---- by hand ----

def stored(data, final=False):
    """Blocks without compression (RFC 1951, 3.2.4), beginning and ending at a byte."""
    pieces = [data[at:at + 65535] for at in range(0, len(data), 65535)] or [b""]
    return b"".join(struct.pack("<BHH", final and i == len(pieces) - 1, len(piece), len(piece) ^ 0xffff) + piece
                    for i, piece in enumerate(pieces))


class Bits:
    """Writes a DEFLATE stream bit by bit."""

    def __init__(self):
        self.value = self.count = 0

    def put(self, value, width):
        """A number, its lowest bit first."""
        self.value |= value << self.count
        self.count += width
        return self

    def code(self, value, width):
        """A Huffman code, its highest bit first."""
        return self.put(int(f"{value:0{width}b}"[::-1], 2), width)

    def literal(self, octet):
        """In the fixed code (RFC 1951, 3.2.6)."""
        return self.code(0x30 + octet, 8) if octet < 144 else self.code(0x190 + octet - 144, 9)

    def reference(self, distance):
        """Three bytes from `distance` back, in the fixed code."""
        self.code(1, 7)
        for symbol, (first, extra) in reversed(list(enumerate(DISTANCES))):
            if distance >= first:
                return self.code(symbol, 5).put(distance - first, extra)
        raise ValueError(distance)

    def fixed(self, final=False):
        return self.put(int(final), 1).put(1, 2)

    def end(self):
        return self.code(0, 7)

    def finish(self):
        """Ends as a message does: the header of an empty stored block, padded to the byte."""
        self.put(0, 3)
        return bytes(self)

    def __bytes__(self):
        return self.value.to_bytes((self.count + 7) // 8, "little")


# ---- how far back ----

def _table(first, widths):
    table = []
    for extra in widths:
        table.append((first, extra))
        first += 1 << extra
    return table


LENGTHS = _table(3, [n // 4 - 1 if n >= 8 else 0 for n in range(28)]) + [(258, 0)]
DISTANCES = _table(1, [n // 2 - 1 if n >= 4 else 0 for n in range(30)])
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def bit(self):
        bit = self.data[self.at >> 3] >> (self.at & 7) & 1
        self.at += 1
        return bit

    def number(self, width):
        return sum(self.bit() << i for i in range(width))

    def symbol(self, codes):
        width, value = 0, 0
        while (width, value) not in codes:
            width, value = width + 1, value << 1 | self.bit()
            assert width <= 15, "no such code"
        return codes[width, value]


def _codes(widths):
    """The canonical code with these widths (RFC 1951, 3.2.2) as {(width, code): symbol}."""
    codes, value = {}, 0
    for width in range(1, 16):
        for symbol, own in enumerate(widths):
            if own == width:
                codes[width, value] = symbol
                value += 1
        value <<= 1
    return codes


def _dynamic(reader):
    literals, distances, count = reader.number(5) + 257, reader.number(5) + 1, reader.number(4) + 4
    widths = [0] * 19
    for symbol in ORDER[:count]:
        widths[symbol] = reader.number(3)
    meta, widths = _codes(widths), []
    while len(widths) < literals + distances:
        symbol = reader.symbol(meta)
        if symbol < 16:
            widths.append(symbol)
        elif symbol == 16:
            widths += widths[-1:] * (reader.number(2) + 3)
        else:
            widths += [0] * (reader.number(3) + 3 if symbol == 17 else reader.number(7) + 11)
    return _codes(widths[:literals]), _codes(widths[literals:])


FIXED = _codes([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8), _codes([5] * 30)


def farthest(payload):
    """The longest distance that a message's payload refers back, 0 without any. Raises when it does not end with a
    block. (zlib's own check of the window lets through what lies in the piece that it is writing.)"""
    reader, longest = _Reader(payload + TAIL), 0
    while reader.at < len(reader.data) * 8:
        reader.bit()
        kind = reader.number(2)
        if kind == 0:
            reader.at = (reader.at + 7) // 8 * 8
            length = reader.number(16)
            assert reader.number(16) == length ^ 0xffff, "a length and not its complement"
            reader.at += 8 * length
            continue
        literals, distances = FIXED if kind == 1 else _dynamic(reader)
        while (symbol := reader.symbol(literals)) != 256:
            if symbol > 256:
                reader.number(LENGTHS[symbol - 257][1])
                first, extra = DISTANCES[reader.symbol(distances)]
                longest = max(longest, first + reader.number(extra))
    assert reader.at == len(reader.data) * 8, "the last block is not whole"
    return longest
