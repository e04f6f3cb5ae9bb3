"""Beacons: agents light one to call for help. The feature of the test in tests/house/test_stranger.py."""
