"""The driver of Arm SMMUv3 units: stream table, context descriptors, domains, commands, events, guests' tables."""
