"""Benchmarks of tfgpt beside other libraries; each is run with `python -m`."""
