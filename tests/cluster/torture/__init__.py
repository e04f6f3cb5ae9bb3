"""Faults under load: real nodes on a real Valkey, with publishers and clients, and a judge of the results.

`cluster` runs the processes, `publishers` and `subscribers` are the load, `faults` injects faults, `judge` compares
acknowledged with received events, `rounds` runs it all, `table` prints the results.
"""
