"""Which units of a layer detect which concept (figure 4 of the paper)."""
