"""The answer to a websocket client's offers of permessage-deflate (RFC 7692).

An offer that this server cannot fulfil is declined, and the connection goes on without compression (RFC 7692 5.1).
Tornado 6.6 drops parameters without a value and raises for wrong ones, so its own negotiation would give a wrong answer
or a 500.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

NAME = "permessage-deflate"
LEAST_BITS = 9  # zlib's compressor has no smaller window without a header
BITS = {str(bits): bits for bits in range(8, 16)}  # RFC 7692 7.1.2: decimal, without leading zeros

Parameters = dict[str, str | None]

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf"\s*({_TOKEN})(?:\s*=\s*(?:({_TOKEN})|\"({_TOKEN})\"))?\s*")


def agreed(header: str) -> Parameters | None:
    """Return the answer's parameters for the first acceptable offer; None if there is none.

    `header` is the value of Sec-WebSocket-Extensions, with all its offers.
    """
    for offer in header.split(","):
        name, *texts = offer.split(";")
        if name.strip().lower() == NAME:
            answer = _answer(texts)
            if answer is not None:
                return answer
    return None


def extension_header(parameters: Parameters) -> str:
    """Return the value of Sec-WebSocket-Extensions that answers an offer (RFC 7692 7.1)."""
    texts = (name if value is None else f"{name}={value}" for name, value in sorted(parameters.items()))
    return "; ".join((NAME, *texts))


def _answer(texts: list[str]) -> Parameters | None:
    """Return the answer's parameters for one offer.

    None declines the offer: it has unknown or repeated parameters, or wrong values.
    """
    offered: Parameters = {}
    for name, value in _read(texts):
        if name is None or name in offered:
            return None
        offered[name] = value
    answer: Parameters = {}
    for name, value in offered.items():
        match name:
            case "server_no_context_takeover" | "client_no_context_takeover" if value is None:
                answer[name] = None
            case "server_max_window_bits" if BITS.get(value or "", 0) >= LEAST_BITS:
                answer[name] = value
            case "client_max_window_bits" if value is None or value in BITS:
                # Without a value the parameter only means that the client would accept a limit; this server sets none.
                if value is not None and BITS[value] >= LEAST_BITS:
                    answer[name] = value
            case _:
                return None
    return answer


def _read(texts: list[str]) -> Iterator[tuple[str | None, str | None]]:
    """Yield each parameter's name in lower case and its value; the name is None if the text is not a parameter."""
    for text in texts:
        found = _PARAMETER.fullmatch(text)
        if found is None:
            yield None, None
        else:
            name, plain, quoted = found.groups()
            yield name.lower(), plain if plain is not None else quoted
