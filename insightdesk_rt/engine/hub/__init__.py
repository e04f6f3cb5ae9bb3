"""Floor 2: which socket is in which room on this node. Knows no protocol, no Valkey, no Tornado."""
