"""The other nodes, reached through Valkey: the logs, the backplane, leases, sessions, calls between nodes."""
