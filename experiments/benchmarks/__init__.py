"""Speed and memory, measured beside a peer in the same run; see docs/benchmarks.md.

Every timing has the machine to itself. The sides take turns (A B A B), each in a warm process of
its own, so that a drift of the machine hits both; the raw rows are committed, the ratios of their
medians are claims.
"""
