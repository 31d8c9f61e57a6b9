"""Parameters and multiply-adds, and the paper's tables next to our counts."""
