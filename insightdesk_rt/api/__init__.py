"""The kit that every HTTP API on the admin port is built with."""
