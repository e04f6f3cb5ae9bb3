"""Floor 5: the client port's door, as Tornado handlers."""
