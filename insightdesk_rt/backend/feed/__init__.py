"""The feed: changes that the helpdesk's back end reads."""
