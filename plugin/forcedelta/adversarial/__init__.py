"""Adversarial attacks: structures of low energy at which a model disagrees most with itself."""
