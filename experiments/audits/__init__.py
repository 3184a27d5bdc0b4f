"""What experiments.audit asks of images and runs, one kind per file."""
