"""The helpdesk's back end: what it pushes."""
