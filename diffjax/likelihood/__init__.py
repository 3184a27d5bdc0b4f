"""How likely a model finds images, in three ways: two variational bounds and its flow's density."""
