#!/bin/busybox sh
# First process of the Linux guest: mounts what every tool expects, loads the drivers, then gives a shell on the
# console, or runs the checks of selftest.sh when the kernel command line says paravane.test.
export PATH=/sbin:/bin HOME=/root TERM=linux

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

echo
echo "Linux $(uname -r) on $(cat /sys/hypervisor/type 2>/dev/null || echo bare metal), $(nproc) CPU(s)"
echo "poweroff and reboot end the machine; Ctrl-A x leaves QEMU."
cd /root
setsid cttyhack sh
poweroff
