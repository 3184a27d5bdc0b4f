"""Where an image came from, and how that is proved."""
