"""Two commands for a raida-uring node: one needs nothing, one reads coins."""
