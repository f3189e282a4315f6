"""What decides: pure functions over frozen values. Nothing in here can touch the world."""
