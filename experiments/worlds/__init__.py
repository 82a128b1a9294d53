"""Grids, navigation and communication: baselines on the native worlds, and what their benchmarks found."""
