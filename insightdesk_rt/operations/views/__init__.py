"""The views of the admin port: nodes, connections, rooms, users, health, metrics, live events."""
