"""A node as a process: what is started, what ends it, what it inherits and hands over."""
