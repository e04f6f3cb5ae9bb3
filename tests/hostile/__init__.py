"""Attacks on a real server by strangers, customers and broken clients, and the harm they must not do."""
