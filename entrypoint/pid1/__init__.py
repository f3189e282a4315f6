"""The process that supervises."""
