"""Bit layouts of every structure and register, as data with their sources."""
