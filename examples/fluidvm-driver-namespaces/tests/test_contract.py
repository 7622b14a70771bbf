"""The driver keeps FluidVM's contract, on guests that boot."""

from fluidvm.conformance import driver_contract

from .factory import Factory

globals().update(driver_contract(Factory()))
