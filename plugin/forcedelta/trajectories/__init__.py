"""Stored trajectories: their frames one after the other, whoever wrote them."""
