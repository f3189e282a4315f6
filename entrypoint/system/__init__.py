"""What touches: one kernel facility a file. Nothing in here decides, and no file imports another."""
