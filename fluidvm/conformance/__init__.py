"""
The driver contract as tests: what L{fluidvm.driver} promises, checked on any driver.

The test file of a driver needs its factory and one more line::

    from fluidvm.conformance import driver_contract
    from .factory import MyFactory

    globals().update(driver_contract(MyFactory()))

This defines one C{TestCase} for each interface that the driver's connections provide. There are no tests for abilities that
aren't provided, and no test is skipped. The message of each failure names the verb and the promise that it broke.

Imported by drivers' own tests, and by nothing of the server.
"""

from __future__ import annotations

from fluidvm.conformance.adoption import AdoptionContract
from fluidvm.conformance.case import ContractCase, ContractFactory
from fluidvm.conformance.connection import ConnectionContract
from fluidvm.conformance.console import SerialConsoleContract, VncConsoleContract
from fluidvm.conformance.disks import DisksContract
from fluidvm.conformance.events import EventsContract
from fluidvm.conformance.guest import GuestContract, GuestNetworkContract, LimitsContract, TemplatesContract
from fluidvm.conformance.images import ImagesContract
from fluidvm.conformance.live_resize import LiveResizeContract
from fluidvm.conformance.migration import MigrationContract
from fluidvm.conformance.networks import NetworksContract
from fluidvm.conformance.save import ResetContract, SaveContract
from fluidvm.conformance.screen import ScreenshotContract
from fluidvm.conformance.shares import SharesContract
from fluidvm.conformance.snapshots import SnapshotsContract
from fluidvm.conformance.stats import StatsContract
from fluidvm.conformance.volume_snapshots import VolumeSnapshotsContract
from fluidvm.conformance.volumes import DiskResizeContract, VolumesContract
from fluidvm.driver import (
    ABILITIES,
    IAdoption,
    IConnection,
    IDiskResize,
    IDisks,
    IEvents,
    IGuest,
    IGuestNetwork,
    IImages,
    ILimits,
    ILiveResize,
    IMigration,
    INetworks,
    Interface,
    IReset,
    ISave,
    IScreenshot,
    ISerialConsole,
    IShares,
    ISnapshots,
    IStats,
    ITemplates,
    IVncConsole,
    IVolumes,
    IVolumeSnapshots,
)

__all__ = ["CONTRACTS", "ContractFactory", "driver_contract"]

CONTRACTS: dict[type[Interface], type[ContractCase]] = {
    IConnection: ConnectionContract,
    ILiveResize: LiveResizeContract,
    IDisks: DisksContract,
    IEvents: EventsContract,
    IStats: StatsContract,
    IVolumes: VolumesContract,
    ISave: SaveContract,
    IReset: ResetContract,
    INetworks: NetworksContract,
    IAdoption: AdoptionContract,
    IMigration: MigrationContract,
    IShares: SharesContract,
    IDiskResize: DiskResizeContract,
    ISnapshots: SnapshotsContract,
    IGuest: GuestContract,
    ITemplates: TemplatesContract,
    IGuestNetwork: GuestNetworkContract,
    ILimits: LimitsContract,
    IVolumeSnapshots: VolumeSnapshotsContract,
    IScreenshot: ScreenshotContract,
    ISerialConsole: SerialConsoleContract,
    IVncConsole: VncConsoleContract,
    IImages: ImagesContract,
}
"""The tests of each ability."""


def driver_contract(factory: ContractFactory) -> dict[str, type[ContractCase]]:
    """
    Create the tests of a driver.

    The tests of the core are always included: a driver whose connections don't declare L{IConnection} fails them.

    @param factory: provides the driver, and a host to test it on.
    @return: test classes by name, for a module's C{globals()}; their C{__module__} is that of the factory.
    """
    connection = factory.driver.connection
    made = {}
    for ability in ABILITIES:
        if ability is IConnection or ability.implementedBy(connection):  # type: ignore[attr-defined]
            contract = CONTRACTS[ability]
            fields = {"factory": factory, "__module__": type(factory).__module__, "__doc__": contract.__doc__}
            made[contract.__name__] = type(contract.__name__, (contract,), fields)
    return made
