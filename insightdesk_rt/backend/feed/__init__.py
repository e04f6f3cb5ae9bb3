"""The feed: what the helpdesk's back end is told."""
