"""The HTTP API to which the back end pushes."""
