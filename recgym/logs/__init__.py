"""Logs: reading them, and turning them into sequences with a split.

Public names: `recgym.logs.readers.read_log`, `recgym.logs.readers.native.sample_log`, `recgym.logs.tables.read_table`,
`recgym.logs.pivot.build_sequences`, `recgym.logs.sequences.Sequences`, `recgym.logs.splits`. Nothing is imported
here, so that the environment starts without Polars.
"""
