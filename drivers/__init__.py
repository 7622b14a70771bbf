"""FluidVM's own drivers; each is found through an entry point and imports nothing of FluidVM but `fluidvm.driver`."""
