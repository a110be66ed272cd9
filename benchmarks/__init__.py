"""Benchmarks of tfgpt beside other libraries; `python -m benchmarks` is the speed table."""
