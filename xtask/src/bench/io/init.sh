#!/bin/busybox sh
# First process of the Linux domain whose front ends are counted: each kind of round in
# short and in long versions, several times.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
while read -r module; do
    insmod "/lib/modules/$module" $(case $module in brd*) echo rd_size=8192 ;; esac) || echo "io: cannot load $module"
done < /lib/modules/order
while [ ! -b /dev/xvda ]; do sleep 0.1; done
for interface in lo eth0 eth1; do
    while [ ! -d "/sys/class/net/$interface" ]; do sleep 0.1; done
    ifconfig "$interface" up
done
sleep 2
for count in COUNTS; do
    io blk block-1 /dev/xvda 1 "$count"
    io blk block-32 /dev/xvda 32 "$count"
    io blk memory-1 /dev/ram0 1 "$count"
    io blk memory-32 /dev/ram0 32 "$count"
    io net packet-1 eth0 eth1 1 "$count"
    io net packet-32 eth0 eth1 32 "$count"
    io net socket-1 lo lo 1 "$count"
    io net socket-32 lo lo 32 "$count"
done
echo "io: finished"
sleep 5
poweroff -f
