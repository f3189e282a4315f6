"""Everything that touches the kernel: one facility a file. No file decides anything, and none imports another."""
