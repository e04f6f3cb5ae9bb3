"""A realtime server: clients, rooms, delivery, nodes. It knows nothing of the helpdesk."""
