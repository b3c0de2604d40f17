"""What a node tells about itself: counters, metrics, the status page, the request log."""
