"""The version and the repository's address, which are read without importing the package."""

__version__ = "0.1.0"
__url__ = ""  # until it is known, the documentation names files outside of it without a link
