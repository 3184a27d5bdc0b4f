"""Which times a sampler visits, one way a file: falling from noise to 0."""
