from twisted.application.service import ServiceMaker

# Named, not imported: twistd lists its plugins without loading them.
fluidvm = ServiceMaker("FluidVM", "fluidvm.server.service", "The FluidVM management server for hypervisor fleets", "fluidvm")
