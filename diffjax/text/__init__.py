"""Text as the token ids that text encoders read."""
