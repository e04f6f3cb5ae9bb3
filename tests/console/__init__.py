"""The console in a real browser, on a demo of two nodes with users."""
