"""Weak labels made from dense ones, and sparse labels grown into denser ones."""
