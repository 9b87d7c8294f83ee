#!/bin/busybox sh
# First process of the Linux guest: mounts what every tool expects, loads the drivers, then gives a shell on the
# console, or runs the checks of selftest.sh when the kernel command line says paravane.test.
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

end() {
    sync
    busybox "$1" -f
}
# How busybox's poweroff, reboot and halt speak to process 1.
trap 'end poweroff' USR2
trap 'end reboot' TERM
trap 'end halt' USR1

grep -qw xenfs /proc/filesystems && mount -t xenfs xenfs /proc/xen

grep -qw paravane.test /proc/cmdline && . /lib/selftest.sh

echo
echo "Linux $(uname -r) on $(cat /sys/hypervisor/type 2>/dev/null || echo bare metal), $(nproc) CPU(s)"
echo "poweroff and reboot end the machine; Ctrl-A x leaves QEMU."
cd /root
setsid cttyhack sh </dev/console >/dev/console 2>&1 &
shell=$!
# A signal ends the wait early, and its trap runs; only the shell's own end leaves the loop.
while kill -0 $shell 2>/dev/null; do wait $shell; done
end poweroff
