"""Data of others, each in a folder with its licence. Installed as diffjax.third_party."""
