"""Frames of text formats, split from their files and parsed with units and elements checked."""
