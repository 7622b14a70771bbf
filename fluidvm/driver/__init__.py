"""
What a hypervisor driver is: the one module that a driver imports.

A driver is an object that provides L{IDriver}; it opens connections that provide L{IConnection} and, for each thing the
hypervisor can do beyond the core, one more interface. Providing the interface I{is} the capability: nothing raises
C{NotImplementedError}, and the server answers with fault 501 for what isn't provided.

Verbs return Deferreds (C{async def} does, through C{Deferred.fromCoroutine}); they must never block the reactor, and can be
repeated: each docstring states the result after success, failure and a repetition. Memory and disk sizes are in MiB.
Errors are L{DriverError} and its subclasses; anything else that a verb raises is treated as a bug in the driver.

Imported by conformance, drivers, drivers.libvirt, drivers.kvm, drivers.xen, drivers.openvz, drivers.simulator, nodes,
engine, access, api, api.storage, api.vms, api.nodes, server, tools.
"""

from __future__ import annotations

from zope.interface import Interface

from fluidvm.driver.abilities import (
    IAdoption,
    IDiskResize,
    IDisks,
    IEvents,
    ILiveResize,
    IMigration,
    INetworks,
    IReset,
    ISave,
    ISnapshots,
    IStats,
    IVolumes,
    IVolumeSnapshots,
)
from fluidvm.driver.console import ISerialConsole, IVncConsole
from fluidvm.driver.core import ABILITIES, DriverHost, IConnection, IDriver, IPatience
from fluidvm.driver.guest import IGuest, IGuestNetwork, ILimits, ITemplates
from fluidvm.driver.images import IImages
from fluidvm.driver.screen import IScreenshot
from fluidvm.driver.shares import IShares
from fluidvm.driver.values import (
    AlreadyThere,
    Boot,
    DomainDisk,
    DomainInfo,
    DomainInterface,
    DomainSpec,
    DomainState,
    DomainStats,
    DriverError,
    GuestNetwork,
    GuestOutput,
    HostInfo,
    HostStats,
    Limits,
    Network,
    NoSuchThing,
    NotReady,
    Pool,
    Progress,
    Shares,
    Snapshot,
    Unreachable,
    Unsupported,
    Volume,
    WrongState,
)
from fluidvm.model.kinds import NAME_PATTERN, Array, Bool, Choice, Double, Int, Kind, Struct, Text

__all__ = [
    "ABILITIES",
    "NAME_PATTERN",
    "AlreadyThere",
    "Array",
    "Bool",
    "Boot",
    "Choice",
    "DomainDisk",
    "DomainInfo",
    "DomainInterface",
    "DomainSpec",
    "DomainState",
    "DomainStats",
    "Double",
    "DriverError",
    "DriverHost",
    "GuestNetwork",
    "GuestOutput",
    "HostInfo",
    "HostStats",
    "IAdoption",
    "IConnection",
    "IDiskResize",
    "IDisks",
    "IDriver",
    "IEvents",
    "IGuest",
    "IGuestNetwork",
    "IImages",
    "ILimits",
    "ILiveResize",
    "IMigration",
    "INetworks",
    "IPatience",
    "IReset",
    "ISave",
    "IScreenshot",
    "ISerialConsole",
    "IShares",
    "ISnapshots",
    "IStats",
    "ITemplates",
    "IVncConsole",
    "IVolumeSnapshots",
    "IVolumes",
    "Int",
    "Interface",
    "Kind",
    "Limits",
    "Network",
    "NoSuchThing",
    "NotReady",
    "Pool",
    "Progress",
    "Shares",
    "Snapshot",
    "Struct",
    "Text",
    "Unreachable",
    "Unsupported",
    "Volume",
    "WrongState",
]
