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

# A root file system on a disk takes over from here.
root=$(sed -n 's/.*paravane\.root=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -n "$root" ]; then
    for wait in 1 2 3 4 5 6 7 8 9 10; do [ -b "$root" ] || sleep 1; done
    if mount -t ext4 "$root" /mnt; then
        for dir in proc sys dev tmp; do mount --move /$dir /mnt/$dir; done
        exec switch_root /mnt /sbin/init
    fi
    echo "cannot mount $root" >/dev/console
fi

grep -qw paravane.test /proc/cmdline && . /lib/selftest.sh

grep -q paravane.load= /proc/cmdline && /lib/load.sh &
grep -q paravane.pair= /proc/cmdline && /lib/pair.sh >/dev/console 2>&1 &
grep -q paravane.blk= /proc/cmdline && /lib/blk.sh >/dev/console 2>&1 &

# From here on busybox's own init is process 1: it knows what poweroff and reboot ask of it (see inittab).
exec init
