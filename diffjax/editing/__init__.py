"""Changing given images with a trained network, without training it again."""
