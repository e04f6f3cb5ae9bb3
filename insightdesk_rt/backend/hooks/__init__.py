"""What this server asks the helpdesk's back end: who may read, who may enter, and events of the back end's own."""
