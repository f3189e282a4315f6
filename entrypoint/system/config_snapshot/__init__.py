"""What the configuration on disk says right now: read in one piece, and reduced to a digest."""
