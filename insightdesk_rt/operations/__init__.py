"""The admin port's operations for the people who run the server."""
