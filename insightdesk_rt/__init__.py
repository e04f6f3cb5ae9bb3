"""Realtime server for the InsightDesk helpdesk: Socket.IO and JSON websockets on Tornado, kept in step through Valkey.

Start with docs/architecture.md: seven floors, arrows only point down.
"""

__version__ = "0.1.0"
