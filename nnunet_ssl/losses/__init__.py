"""Losses as pure functions of logits, each with its equation and its source."""
