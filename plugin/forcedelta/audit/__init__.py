"""Audits: the hooks of a guarded run, over trajectories that exist already.

>>> from forcedelta.audit import audit
>>> [result] = audit("old_run.traj", "acac", "audit.h5", flag_above=0.1)
>>> result.flagged, result.largest
"""

from forcedelta.audit.many import audit
from forcedelta.audit.result import AuditResult
from forcedelta.audit.settings import AuditSettings

__all__ = ["AuditResult", "AuditSettings", "audit"]
