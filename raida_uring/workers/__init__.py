"""Worker threads: what takes requests from the data plane and runs their handlers."""
