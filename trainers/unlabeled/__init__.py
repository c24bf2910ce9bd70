"""Methods that learn from unlabeled images beside fully labeled ones."""
