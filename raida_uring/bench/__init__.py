"""Benchmark: a load generator in C, the servers it compares, and the runner.

`load` runs one load, `cases` defines the requests, `contenders` starts and stops servers, `report`
formats the results. `runner.main` is `make bench` and `raida-uring bench`.
"""
