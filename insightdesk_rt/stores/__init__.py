"""Floor 3: the facts, kept in Valkey. Stores return facts and never say an event's name."""
