"""Floor 6: what may be done to a running server from the shell, through its admin port. A file per command."""
