"""Readers of stored trajectories, frame by frame, in any supported format."""
