"""Reports on recorded files: one HTML page, and pictures."""
