"""The sockets and rooms of this node. Knows no protocol, no Valkey, no Tornado."""
