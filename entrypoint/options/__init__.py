"""The command line and the environment, as values that never change: pure."""
