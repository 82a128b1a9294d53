"""Attacks on trained teams: victims, the grid of attacks, its table."""
