"""
Programs for people who run or change FluidVM: they write the reference, the picture of the rooms, and certificates.

Nothing of FluidVM imports it.
"""
