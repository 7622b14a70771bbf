"""
A stand-in for OpenVZ's tools: C{vzctl}, C{vzlist} and C{vzmigrate} on files in a directory, in both dialects.

Written after the measured behaviour of vzctl 4.11.1 and the manuals and sources of OpenVZ 7. L{tests.fakes.vz.node} installs
it; L{tests.fakes.vz.server} and C{launcher.c} run it. The other modules are the commands themselves.
"""
