#!/bin/sh
# The session on the console: a shell with job control; leaving it switches the machine off.
echo
echo "Linux $(uname -r) on $(cat /sys/hypervisor/type 2>/dev/null || echo bare metal), $(nproc) CPU(s)"
echo "poweroff and reboot end the machine; Ctrl-A x leaves QEMU."
cd /root
sh
poweroff
