"""The elastic demo: members that come and go, beside the same events handled by restarts."""
