"""Realtime server for the InsightDesk helpdesk: Socket.IO and JSON websockets on Tornado, kept in step through Valkey.

Start with docs/architecture.md. The package has wings; a file imports only its own wing and those to its left.
"""

__version__ = "0.1.0"
