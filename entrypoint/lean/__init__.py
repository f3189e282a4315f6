"""The standard library's words at a lower price, each with what it saves."""
