"""
The public driver contract on OpenVZ's tools: both dialects, on this machine and through a real sshd.

And as much of it as a kernel can that isn't OpenVZ's: there are no images of file systems, and vzctl saves nothing.
"""

from __future__ import annotations

from fluidvm.conformance import driver_contract
from tests.real.vz_factory import VzFactory

for _dialect in (4, 7):
    for _way, _ssh in (("Local", False), ("Ssh", True)):
        for _name, _case in driver_contract(VzFactory(_dialect, _ssh)).items():  # type: ignore[arg-type]
            _label = f"{_way}{_dialect}{_name}"
            globals()[_label] = type(_label, (_case,), {"__module__": __name__})
_UPSTREAM = ("Connection", "LiveResize", "Stats", "Reset", "Shares", "Guest", "Templates", "GuestNetwork", "Limits")
for _name, _case in driver_contract(VzFactory(4, False, upstream=True)).items():  # type: ignore[arg-type]
    if _name.removesuffix("Contract") in _UPSTREAM:
        _label = f"Upstream4{_name}"
        globals()[_label] = type(_label, (_case,), {"__module__": __name__})
del _case
