"""Explores what real processes seldom reach: many short runs of a cluster in one process, on a virtual clock."""
