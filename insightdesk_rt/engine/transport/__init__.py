"""Floor 1: bytes and time on Tornado's loop. Knows sockets and deadlines, no namespace and no room."""
