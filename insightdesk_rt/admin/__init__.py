"""Floor 5: the admin port's door, as Tornado handlers."""
