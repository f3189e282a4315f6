"""What makes parts of this repository from others."""
