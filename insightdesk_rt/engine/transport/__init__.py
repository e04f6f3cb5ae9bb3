"""Clients and how their bytes travel: websocket, polling, outbox, timers. Knows no namespace and no room."""
