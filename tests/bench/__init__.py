"""The instrument: measures the service against its peers on one machine. `python -m bench`, with `tests` on the path.

Results are JSON in `results/`; `BENCHMARKS.md` is generated from them and never typed. What was tried, with prediction
and outcome, is in NOTES.md. Nothing in here is a test of right and wrong except test_*.py, which time nothing.
"""
