"""Machinery of a training that is no method's: members, steps, checkpoints, curves."""
