"""What networks cost, and how they compare; import by module (``mmhcgnet.analysis.paper``)."""
