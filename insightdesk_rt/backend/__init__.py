"""The interfaces to the helpdesk's back end."""
