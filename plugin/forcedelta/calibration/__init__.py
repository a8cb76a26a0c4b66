"""Thresholds on the Force Delta with a stated risk, from labelled frames.

The parts are imported from their modules: `labels.read_labels`, `calibrate.calibrate` and
`result.read_calibration`. Only the last is needed to use a calibration, and it imports no SciPy.
"""
