"""What a stranger, a customer or a broken client might try on the real server, and what must not come of it."""
