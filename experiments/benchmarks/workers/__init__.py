"""Processes that are measured. They run with the Python of their side and speak `protocol`."""
