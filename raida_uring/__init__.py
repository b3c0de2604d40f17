"""Network node of a RAIDA server: C data plane on io_uring, Python control plane and handlers."""

__version__ = "0.3.0.dev0"
