"""A feature whose handlers fail in ways that nobody foresaw. For tests/integration/test_mistakes.py."""
