"""The bell: notifications of one user."""
