"""A FluidVM driver of its own distribution: guests are processes in Linux namespaces."""
