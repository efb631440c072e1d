"""Ranks join, leave and die while a job trains: the coordinator, and each process's part in it."""
