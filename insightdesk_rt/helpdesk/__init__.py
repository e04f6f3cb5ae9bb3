"""The product: one folder for each feature."""
