#!/bin/busybox sh
# First program of the root file system on a disk: init.sh of the initramfs has mounted it, and the others in it.
export PATH=/bin HOME=/root TERM=linux

/bin/busybox --install -s /bin
echo "root: $(awk '$2 == "/" { print $1, $3 }' /proc/mounts | tail -n 1)" >/dev/console

grep -q paravane.pair= /proc/cmdline && /lib/pair.sh >/dev/console 2>&1 &

exec init
