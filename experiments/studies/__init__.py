"""The two studies that experiments.upsampling shows."""
