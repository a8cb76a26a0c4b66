"""Audits: the hooks of a guarded run, over stored trajectories.

>>> import forcedelta
>>> [result] = forcedelta.audit("old_run.traj", "acac", "audit.h5", flag_above=0.1)
>>> result.flagged, result.largest
(7, 0.17)

The package is callable: ``forcedelta.audit(...)`` is ``forcedelta.audit.audit(...)``.
"""

import sys
from types import ModuleType
from typing import Any

from forcedelta.audit.many import audit
from forcedelta.audit.result import AuditResult
from forcedelta.audit.settings import AuditSettings

__all__ = ["AuditResult", "AuditSettings", "audit"]


class _CallablePackage(ModuleType):
    def __call__(self, *arguments: Any, **settings: Any) -> list[AuditResult]:
        return audit(*arguments, **settings)


_CallablePackage.__call__.__doc__ = audit.__doc__
sys.modules[__name__].__class__ = _CallablePackage
