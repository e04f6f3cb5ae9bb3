"""What the admin port shows: nodes, connections, rooms, users, health, metrics, live events."""
