"""Answers plain websocket handshakes, polls and short POSTs from their first bytes, before Tornado parses them."""
