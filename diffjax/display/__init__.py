"""Pictures of what a model makes."""
