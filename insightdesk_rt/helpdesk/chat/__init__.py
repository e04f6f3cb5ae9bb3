"""Chats between customers and agents."""
