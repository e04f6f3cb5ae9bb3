"""Publish an event of your own from Python, without the admin port. It needs this package and access to Valkey.

VALKEY_URL=valkey://localhost:6379 python3 emit.py
"""

import os

from insightdesk_rt.emitter import Emitter
from insightdesk_rt.engine.errors import RtError

with Emitter(os.environ["VALKEY_URL"], prefix=os.environ.get("VALKEY_PREFIX", "insightdesk")) as emitter:
    tickets = emitter.of("/tickets")
    try:
        offset = tickets.to("ticket:42").emit("ticket:printed", {"ticketId": "42", "pages": 3}, id="print-9")
    except RtError as refused:
        raise SystemExit(str(refused)) from None  # after UNAVAILABLE, emit again with the same id
    print(offset)
