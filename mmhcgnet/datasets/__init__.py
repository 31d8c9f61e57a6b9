"""Data sets that come with the package; import them by module (``mmhcgnet.datasets.shapes``)."""
