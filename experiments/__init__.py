"""Reproduced tables and benchmarks of the suite; run from a checkout, no part of the wheel."""
