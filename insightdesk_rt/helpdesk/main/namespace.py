"""Main: the namespace `/`, for clients that join it before any other, or cannot be told not to (elephant.io of PHP).

It lets a token in like every namespace and puts its sockets into the same first rooms, so a back end can emit to
`user:`, `role:` and `team:` here, too. It has no events of its own: what a client sends is answered UNKNOWN_EVENT.
"""

from __future__ import annotations

from insightdesk_rt.engine.dispatch.namespace import Namespace


class Main(Namespace):
    path = "/"
