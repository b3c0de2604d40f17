"""The `raida-uring` command: a file for each group of commands. Nothing imports it."""
