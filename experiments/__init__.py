"""The command line: stages from logs to report, known worlds, trust, benchmarks. Imports all, imported by none."""
