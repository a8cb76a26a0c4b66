"""Screens: U of many structures, one row each, the largest first.

>>> import forcedelta
>>> result = forcedelta.screen(["candidates/"], "mlearn", "screen.csv")
>>> result.rows[0].force_delta, result.rows[0].file
(0.081, 'candidates/silicon.cif')
"""
