"""The feature presence: which users are online, and their status."""
