"""The namespace `/`, for clients that must connect to it before any other one, such as elephant.io of PHP.

It accepts tokens like every namespace and puts its sockets into the same first rooms, so a back end can emit to
`user:`, `role:` and `team:` here too. It has no events of its own: a client that sends one gets UNKNOWN_EVENT.
"""

from __future__ import annotations

from insightdesk_rt.engine.dispatch.namespace import Namespace


class Main(Namespace):
    path = "/"
