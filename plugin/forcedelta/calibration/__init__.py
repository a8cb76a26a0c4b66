"""Thresholds on the Force Delta with a stated risk, from labelled frames.

Import the parts from their modules: `labels.read_labels`, `calibrate.calibrate` and
`result.read_calibration`. Using a calibration needs only the last, which does not import SciPy.
"""
