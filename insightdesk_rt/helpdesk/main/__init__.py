"""The main namespace: what every stock client may connect to first."""
