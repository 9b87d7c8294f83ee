# A RAM disk of Linux's behind its block back end: blkcheck's checksum must be that of what Linux wrote, and after
# blkcheck's own writes Linux must see other bytes.
dd if=/dev/urandom of=/dev/ram0 bs=1M count=4 2> /dev/null
before=$(crc32 /dev/ram0 | cut -d ' ' -f 1)
echo "disk: checksum $before"

check() {
    cat > /tmp/$1.cfg <<END
name = "$1"
type = "pv"
kernel = "/test/blkcheck"
extra = "$2"
memory = 32
disk = ["format=raw,vdev=xvda,access=rw,script=paravane-disk,target=/dev/ram0"]
on_poweroff = "preserve"
on_crash = "preserve"
END
    xl create /tmp/$1.cfg
    for second in $(seq 90); do
        sleep 1
        grep -q "blkcheck: passed\|FAILED" /var/log/xen/console/guest-$1.log && break
    done
    cat /var/log/xen/console/guest-$1.log
    xl destroy $1
}

check reader "cost=50"
grep -q "crc32 $before" /var/log/xen/console/guest-reader.log && echo "disk: reading agrees"
check writer "write order=1"
grep -q "blkcheck: passed" /var/log/xen/console/guest-writer.log && echo "disk: writing passed"
sync
echo 3 > /proc/sys/vm/drop_caches
after=$(crc32 /dev/ram0 | cut -d ' ' -f 1)
[ "$before" != "$after" ] && grep -q "$after" /var/log/xen/console/guest-writer.log && echo "disk: Linux sees the writes"
