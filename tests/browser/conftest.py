"""Collected by `make test-browser` only."""

import os

collect_ignore_glob = [] if os.environ.get("BROWSER_TESTS") else ["test_*.py"]
