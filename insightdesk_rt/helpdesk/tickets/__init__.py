"""Tickets: live changes, comments, viewers, and who may read them."""
