"""A feature whose handlers fail unexpectedly, for tests/integration/test_mistakes.py."""
