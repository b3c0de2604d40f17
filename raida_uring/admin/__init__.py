"""The admin socket: the side that answers (server) and the side that asks (client)."""
