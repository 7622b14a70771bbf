"""The public driver contract on OpenVZ's tools: both dialects, on this machine and through a real sshd."""

from __future__ import annotations

from fluidvm.conformance import driver_contract
from tests.real.vz_factory import VzFactory

for _dialect in (4, 7):
    for _way, _ssh in (("Local", False), ("Ssh", True)):
        for _name, _case in driver_contract(VzFactory(_dialect, _ssh)).items():  # type: ignore[arg-type]
            _label = f"{_way}{_dialect}{_name}"
            globals()[_label] = type(_label, (_case,), {"__module__": __name__})
del _case
