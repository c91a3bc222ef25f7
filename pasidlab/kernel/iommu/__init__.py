"""IOMMU drivers, one an architecture, and the request structures that user space hands to them."""
