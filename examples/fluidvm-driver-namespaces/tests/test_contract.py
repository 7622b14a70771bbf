"""The driver passes FluidVM's contract, with guests that boot."""

from fluidvm.conformance import driver_contract

from .factory import Factory

globals().update(driver_contract(Factory()))
