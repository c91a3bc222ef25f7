"""The driver of AMD IOMMUs (``drivers/iommu/amd``)."""
