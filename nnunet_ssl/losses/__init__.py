"""Loss functions as pure functions, one file per family."""
