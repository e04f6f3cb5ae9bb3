"""Floor 3: the other nodes, reached through Valkey."""
