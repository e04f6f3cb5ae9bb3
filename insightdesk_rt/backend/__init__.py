"""What the helpdesk's back end and the server do for each other."""
