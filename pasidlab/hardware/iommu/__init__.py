"""Remapping units, one package a vendor, and the contract that all of them keep."""
