"""Benchmark: a load generator in C, the peers it compares with, and the runner.

`load` runs one load, `cases` says what is asked, `contenders` starts and stops servers, `report`
prints. `runner.main` is `make bench` and `raida-uring bench`.
"""
