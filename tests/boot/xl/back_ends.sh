# Our driver domain under Xen's toolstack, and Linux domains with its disks and on its bridge.
log() { echo "/var/log/xen/console/guest-$1.log"; }

# Waits for a line of a domain's console; without it there is nothing more to see.
wait_for() {
    for second in $(seq "$3"); do
        grep -q "$2" "$(log "$1")" && return
        sleep 1
    done
    echo "no '$2' of $1"
    cat "$(log "$1")" "$(log drivers)"
    exit
}

# A Linux domain: its name, the contents of its disk, what it does, the rest of its configuration.
linux() {
    cat > /tmp/$1.cfg <<END
name = "$1"
type = "pv"
kernel = "/test/vmlinuz"
ramdisk = "/test/initramfs"
extra = "console=hvc0 quiet paravane.blk=xvda $3"
memory = 192
disk = ["format=raw,vdev=xvda,access=rw,backend=drivers,target=$2"]
$4
END
    xl create /tmp/$1.cfg || exit
}

cat > /tmp/drivers.cfg <<END
name = "drivers"
type = "pv"
kernel = "/test/driver-domain"
ramdisk = "/test/archive"
memory = 64
driver_domain = 1
on_crash = "preserve"
END
xl create /tmp/drivers.cfg
wait_for drivers "waiting to be asked" 60
net='vif = ["backend=drivers"]'
linux a disk "paravane.blk.do=read,write paravane.address=10.0.2.21 paravane.pair=10.0.2.22" "$net"
linux b ram:4M "paravane.blk.do=features paravane.address=10.0.2.22 paravane.pair=10.0.2.21" "$net"
for domain in a b; do
    wait_for $domain "blk: done" 100
    wait_for $domain "pair: done" 100
    sed "s/^/$domain: /" "$(log $domain)"
done
sum=$(sha256sum /test/disk | cut -d ' ' -f 1)
grep -q "blk: holds 4194304 bytes $sum" "$(log a)" && echo "disk: Linux read what there is"
sum=$(sed -n 's/.*blk: wrote \([0-9a-f ]*\) bytes \([0-9a-f]*\).*/\2/p' "$(log a)")
xl destroy a
xl destroy b
linux c disk "paravane.blk.do=read" ""
wait_for c "blk: done" 120
sed "s/^/c: /" "$(log c)"
grep -q "blk: holds 4194304 bytes $sum" "$(log c)" && echo "disk: another domain read what Linux wrote"
xl destroy c
sleep 5
xl list
drivers=$(xl domid drivers)
xenstore-ls -f "/local/domain/$drivers/backend"
xenstore-ls -f "/local/domain/$drivers/backend" | grep -q frontend || echo "disk: nothing is left behind"
sed "s/^/drivers: /" "$(log drivers)"
