"""How fast networks are and what they keep."""
