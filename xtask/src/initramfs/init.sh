#!/bin/busybox sh
# First program of the Linux guest: mounts what every tool expects, loads the drivers, then makes way for a shell on
# the console, or runs the checks of selftest.sh when the kernel command line says paravane.test.
export PATH=/bin HOME=/root TERM=linux

/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp

while read -r module; do
    insmod "/lib/modules/$module" 2>/dev/null
done </lib/modules/order

grep -qw xenfs /proc/filesystems && mount -t xenfs xenfs /proc/xen

grep -qw paravane.test /proc/cmdline && . /lib/selftest.sh

grep -q paravane.load= /proc/cmdline && /lib/load.sh &

# From here on busybox's own init is process 1: it knows what poweroff and reboot ask of it (see inittab).
exec init
