"""
The methods for disks, images and their snapshots.

Imported by api.vms.
"""

from fluidvm.api.storage import disk_snapshots, disks, images, volumes

__all__ = ["disk_snapshots", "disks", "images", "volumes"]
