"""The client port: who is let in, and the HTTP and websocket handlers."""
