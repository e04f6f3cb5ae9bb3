"""Webhooks: the feed, posted to addresses of the back end."""
