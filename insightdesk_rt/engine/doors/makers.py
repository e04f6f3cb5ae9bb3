"""Recognises client libraries by their handshake, to decide whether a client is sent recovery offsets.

Socket.IO's connection state recovery appends the offset to every logged event as one more argument. Only clients that
know recovery remove it again; in others it breaks handlers with a fixed number of arguments (python-socketio raises
TypeError, Dart passes a list instead of the object). So it is not sent to libraries that are known not to use it.
A client can override this with `recovery: true` or `recovery: false` in the auth of its CONNECT.
"""

from __future__ import annotations

import re

# User-Agents of HTTP libraries in languages whose Socket.IO clients do not use recovery. Not listed: okhttp, CFNetwork
# (React Native runs the JavaScript client on them; the Java and Swift handlers take any number of arguments).
_WITHOUT_RECOVERY = re.compile(r"python|dart/|go-http-client/|ruby|php|elephant\.io", re.IGNORECASE).match
# python-engineio writes `transport=websocket&EIO=4`, all others put EIO first. Its websocket-client library sends no
# User-Agent at all.
_PYTHON_ENGINEIO = re.compile(r"(?:.*&)?transport=(?:polling|websocket)&EIO=4(?:&|$)", re.ASCII | re.DOTALL).match


def uses_recovery(agent: str, query: str) -> bool:
    """Return whether the client of this handshake is sent a pid and offsets unless it says otherwise.

    `agent` is its User-Agent header, `query` the unparsed query of its first request.
    """
    return _WITHOUT_RECOVERY(agent) is None and _PYTHON_ENGINEIO(query) is None
