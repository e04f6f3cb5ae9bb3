"""Your own check of who may read a ticket: access = "own_access:make"."""


class OwnAccess:
    """Agents read the tickets of their region, customers their own, admins all."""

    def __init__(self, tickets, regions):
        self._tickets = tickets  # the pushed tickets, for example `await tickets.get(ticket_id)`
        self._regions = regions  # your own facts

    async def may_read(self, user, ticket_id):
        """`user` has id, role, team_id, name. An exception, or no answer in time, counts as no."""
        ticket = await self._tickets.get(ticket_id)
        if ticket is None:
            return False
        if user.role == "customer":
            return ticket.requesterId == user.id
        return user.role == "admin" or self._regions.get(user.id) == ticket.teamId


def make(tickets, settings):
    """Called once at the start. `settings` has every setting of the server by its name."""
    return OwnAccess(tickets, {"ann": "north", "ben": "south"})
