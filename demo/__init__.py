"""Stand-ins for the services around Replay, for the demo and for the tests. Nothing that is installed imports this."""
