"""The file of a run: H5MD, written as a whole or not at all, and read also while it grows."""
