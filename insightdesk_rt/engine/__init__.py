"""A realtime server: clients, rooms, delivery, nodes. It does not know the helpdesk."""
