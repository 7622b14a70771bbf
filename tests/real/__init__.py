"""Tests on real parts: libvirt hosts with guests that boot, sshd, the server as a program of its own."""
