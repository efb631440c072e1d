"""Adapters: one file per framework concern, its live state to and from shard maps."""
