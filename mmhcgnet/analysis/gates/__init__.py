"""Where the gates of HCGNet look, and class activation maps."""
