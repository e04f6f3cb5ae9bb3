"""What the people who run the server see and do."""
