"""Losses to train on: each builds loss_fn(params, keys, batch) -> (loss, metrics)."""
