"""Faults under load: real nodes on a real Valkey, publishers and clients meanwhile, and a judge afterwards.

`cluster` runs the processes, `publishers` and `subscribers` are the load, `faults` what is done to them, `judge`
decides from what was acknowledged and what was heard, `rounds` plays it all, `table` prints it.
"""
