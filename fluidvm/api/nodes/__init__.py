"""
The methods for compute nodes and drivers.

Gathered by api.
"""

from fluidvm.api.nodes import drivers, evacuation, nodes, stats

__all__ = ["drivers", "evacuation", "nodes", "stats"]
