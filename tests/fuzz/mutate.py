"""Nearly valid inputs: valid messages with typical mutations. A seed reproduces them."""

from __future__ import annotations

from random import Random

TEXTS = (
    '0{"sid":"x"}', "1", "2", "2probe", "3", "3probe", "4", "5", "6", "40", "41",
    '40/tickets,{"token":"eyJhbGciOiJIUzI1NiJ9.e30.x"}', "40/chat,{}", "41/tickets,",
    '42/tickets,7["ticket:subscribe",{"ticketId":"t1","since":"1795397242677-0"}]',
    '42/tickets,["ticket:typing",{"ticketId":"t1"}]', '43/tickets,1[{"ok":true}]', '44/tickets,{"message":"x"}',
    '451-/tickets,["x",{"_placeholder":true,"num":0}]', '461-/tickets,3[{"_placeholder":true,"num":0}]', "bAQIDBA==",
    '{"event":"connect","data":{"token":"x","pid":"y","offset":"1-1"}}', '{"event":"ping"}',
    '{"event":"ticket:subscribe","data":{"ticketId":"t1"},"id":7}', '{"ack":1,"data":{"ok":true}}',
    '42/chat,9["chat:message",{"conversationId":"c1","text":"hi \\ud83d\\ude00","clientId":"k"}]',
    '42/presence,1["presence:status",{"status":"busy"}]',
)  # fmt: skip
# Texts that often break parsers: separators, extreme numbers, escapes, nesting, names with a meaning in languages.
WORDS = (
    b"\x1e",
    b",",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xe2\x80\xae",
    b"-",
    b"0",
    b"9" * 20,
    b"1e400",
    b"-0",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b"1.5",
    b"_placeholder",
    b"__proto__",
    b"constructor",
    b"[" * 500,
    b'{"a":' * 100,
    b"a" * 5_000,
    b"/",
    b"?",
    b"%00",
    "²".encode(),
    "٣".encode(),
    b"\r\n",
)


def text(random: Random) -> bytes:
    """Return one mutated message, or in half of the cases several."""
    data = bytearray(random.choice(TEXTS).encode())
    for _ in range(random.choice((0, 1, 1, 1, 2, 3, 6))):
        data = broken(random, data)
    return bytes(data[:60_000])


def broken(random: Random, data: bytearray) -> bytearray:
    at = random.randrange(len(data) + 1)
    upto = min(len(data), at + random.choice((1, 1, 2, 4, 16)))
    match random.randrange(7):
        case 0:
            return data[:at] + random.choice(WORDS) + data[at:]
        case 1:
            return data[:at] + data[upto:]
        case 2:
            return data[:at] + data[at:upto] * random.choice((2, 3, 50)) + data[upto:]
        case 3:
            return data[:at] + bytearray(random.randbytes(upto - at)) + data[upto:]
        case 4:
            return data[:at]
        case 5:
            other = random.choice(TEXTS).encode()
            return data[:at] + other[random.randrange(len(other)) :]
        case _:
            return data[:at] + random.choice(WORDS) + data[upto:]


def frame(random: Random, payload: bytes) -> bytes:
    """Return a payload in a websocket frame whose bits, opcode, length or mask may be wrong, too."""
    odd = random.random() < 0.2
    first = random.randrange(256) if odd else 0x80 | random.choice((1, 1, 1, 1, 2, 9, 10, 8, 0))
    masked = 0 if odd and random.random() < 0.3 else 0x80
    size = len(payload)
    if odd and random.random() < 0.3:
        size = random.choice((0, 1, 125, 126, 65_535, 65_536, 1 << 31, 1 << 62, (1 << 64) - 1))
    if size < 126:
        head = bytes([first, masked | size])
    elif size < 65_536:
        head = bytes([first, masked | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, masked | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = random.randbytes(4)
    return head + mask + bytes(byte ^ mask[n & 3] for n, byte in enumerate(payload))


def pieces(random: Random, data: bytes) -> list[bytes]:
    """Return the same bytes in pieces as they may arrive."""
    if random.random() < 0.5 or len(data) < 2:
        return [data]
    cuts = sorted(random.randrange(len(data)) for _ in range(random.randrange(1, 5)))
    return [part for part in (data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)) if part]
