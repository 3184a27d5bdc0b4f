"""What networks are told besides a noisy image and a time, one kind a file."""
