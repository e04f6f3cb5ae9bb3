"""The client port: admission, and the HTTP and websocket handlers."""
