#!/bin/busybox sh
# Tries a disk that another domain serves: paravane.blk= on the kernel's command line names it, paravane.blk.do= says what to
# do, one after the other with commas between: read, write, features, restart. Each line that starts with "blk:" says what came of it.
setting() {
    for word in $(cat /proc/cmdline); do
        case "$word" in paravane.$1=*) echo "${word#*=}" ;; esac
    done
}
sum() { sha256sum "$1" | cut -d ' ' -f 1; }
forget() { sync; echo 3 >/proc/sys/vm/drop_caches; }

name=$(setting blk)
disk=/dev/$name
for wait in 1 2 3 4 5 6 7 8 9 10; do [ -b "$disk" ] || sleep 1; done
[ -b "$disk" ] || { echo "blk: no $disk"; exit 1; }
size=$(blockdev --getsize64 "$disk")

do_read() {
    forget
    echo "blk: holds $size bytes $(sum "$disk")"
}

do_write() {
    dd if=/dev/urandom of=/tmp/bytes bs=64k count=$((size / 65536)) 2>/dev/null
    dd if=/tmp/bytes of="$disk" bs=1M conv=fsync 2>/dev/null
    echo "blk: wrote $(stat -c %s /tmp/bytes) bytes $(sum /tmp/bytes)"
    rm /tmp/bytes
    forget
    echo "blk: kept $(sum "$disk")"
}

# The second MiB is discarded, then a file system that discards what is deleted comes and goes.
do_features() {
    dmesg | grep -q "$name:.*persistent grants: enabled" && echo "blk: grants are kept"
    echo "blk: cache $(cat /sys/block/$name/queue/write_cache)"
    yes paravane | dd of="$disk" bs=64k count=$((size / 65536)) iflag=fullblock conv=fsync 2>/dev/null
    forget
    before=$(dd if="$disk" bs=1M skip=2 2>/dev/null | sha256sum)
    blkdiscard -o 1048576 -l 1048576 "$disk" || echo "blk: cannot discard"
    forget
    [ "$before" = "$(dd if="$disk" bs=1M skip=2 2>/dev/null | sha256sum)" ] || echo "blk: discarded too much"
    zeros=$(dd if="$disk" bs=1M skip=1 count=1 2>/dev/null | tr -d '\0' | wc -c)
    echo "blk: $((1048576 - zeros)) bytes discarded"
    mke2fs "$disk" >/dev/null 2>&1
    mount -t ext4 -o discard "$disk" /mnt || echo "blk: cannot mount"
    dd if=/dev/urandom of=/mnt/gone bs=64k count=8 conv=fsync 2>/dev/null
    dd if=/dev/urandom of=/mnt/stays bs=64k count=8 conv=fsync 2>/dev/null
    sum=$(sum /mnt/stays)
    rm /mnt/gone
    sync
    fstrim /mnt || echo "blk: cannot trim"
    umount /mnt
    forget
    mount -t ext4 "$disk" /mnt
    [ "$sum" = "$(sum /mnt/stays)" ] && echo "blk: the file system kept its file"
    umount /mnt
    # Numbers 12 and 16 of the statistics are discards and flushes that were done.
    awk '{ print "blk: " ($12 > 2 ? "some" : "no") " discards, " ($16 > 2 ? "some" : "no") " flushes" }' /sys/block/$name/stat
    echo "blk: $(dmesg | grep -c 'I/O error\|op failed') errors"
}

# The first start leaves a mark and starts anew; the second finds the mark, and fetches a page from the web server.
do_restart() {
    if grep -q "left a mark" "$disk"; then
        echo "blk: found the mark"
        ifconfig eth0 "$(setting address)" netmask 255.255.255.0 up
        for try in 1 2 3 4 5 6 7 8 9 10; do
            wget -q -O - "http://$(setting web)/" 2>/dev/null | grep -q "<title>webserver" && break
            sleep 1
        done && echo "blk: found the web server"
        return
    fi
    echo "left a mark" | dd of="$disk" conv=fsync 2>/dev/null
    echo "blk: left a mark"
    sync
    reboot -f
}

for what in $(setting blk.do | tr , ' '); do do_$what; done
echo "blk: done"
