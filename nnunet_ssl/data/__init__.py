"""What the trainers read: the list of unlabeled cases, the unlabeled data set, the two-stream loader."""
