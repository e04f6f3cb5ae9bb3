"""The parts of a websocket message whose frames have not all arrived.

Each unfinished message has a number, by which the client's timeout recognises it without a reference to it.
"""

from __future__ import annotations

import codecs
from io import StringIO
from itertools import count

from insightdesk_rt.engine.errors import WireError

numbers = count(1)  # of this process
_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class UnfinishedText:
    """An unfinished text message, decoded as it arrives. A character cut in two waits in the decoder."""

    __slots__ = ("_decoder", "_text", "number")

    def __init__(self) -> None:
        self.number = next(numbers)
        self._decoder = _utf8_decoder()
        self._text = StringIO()

    def add(self, payload: bytes, final: bool = False) -> None:
        try:
            self._text.write(self._decoder.decode(payload, final))
        except UnicodeDecodeError:
            raise WireError("text is not UTF-8", 1007) from None

    def done(self) -> str:
        self.add(b"", True)
        return self._text.getvalue()


class UnfinishedBinary:
    __slots__ = ("_data", "number")

    def __init__(self) -> None:
        self.number = next(numbers)
        self._data = bytearray()

    def add(self, payload: bytes) -> None:
        self._data += payload

    def forget(self) -> None:
        """Drop the bytes that have come: the message will be thrown away."""
        self._data.clear()

    def done(self) -> bytes:
        return bytes(self._data)
