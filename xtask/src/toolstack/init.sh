#!/bin/busybox sh
# First process of a first domain that has Xen's own toolstack: starts what `xl` needs, then the test, then powers off.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin:/usr/lib/xen-4.17/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run/xen /run/xenstored /run/lock /var/lib/xen /var/lib/xenstored /var/log/xen/console /tmp
mount -t devpts pts /dev/pts
ln -sfn /run /var/run
ln -sfn /run/lock /var/lock
while read -r module; do
    insmod "/lib/modules/$module" || echo "toolstack: cannot load $module"
done < /lib/modules/order
mount -t xenfs xenfs /proc/xen
xenstored
while [ ! -S /run/xenstored/socket ]; do sleep 0.1; done
xen-init-dom0
xenconsoled --log=all --log-dir=/var/log/xen/console
echo "toolstack: ready"
sh /test/run.sh
echo "toolstack: done"
poweroff -f
