# The checks of a Linux guest, sourced by init. One TAP line each; a check is a function check_<name> that fails by its
# exit status and says why on standard output.

dmesg -n 1

setting() {
    # The value of paravane.<name>= on the kernel command line.
    for word in $(cat /proc/cmdline); do
        case "$word" in paravane.$1=*) echo "${word#*=}" ;; esac
    done
}

check_hypervisor_type() {
    type=$(cat /sys/hypervisor/type) && [ "$type" = xen ] || { echo "type is '$type'"; return 1; }
}

check_booted_paravirtual() {
    dmesg | grep -q 'Hypervisor detected: Xen PV' || { dmesg | grep -i 'hypervisor'; return 1; }
}

check_first_domain() {
    grep -q control_d /proc/xen/capabilities || { echo "no control_d in /proc/xen/capabilities"; return 1; }
}

check_fork_exec_pipe() {
    i=0
    while [ $i -lt 1000 ]; do
        got=$(/bin/echo "round $i" | /bin/cat)
        [ "$got" = "round $i" ] || { echo "round $i read '$got'"; return 1; }
        i=$((i + 1))
    done
}

check_processes_are_isolated() {
    # A child that writes must not change its parent's copy of the page.
    value=parent
    (value=child; [ $value = child ]) && [ $value = parent ] || { echo "value became $value"; return 1; }
    # A killed child is reported as such and takes nobody with it.
    sh -c 'kill -SEGV $$' 2>/dev/null
    status=$?
    [ $status -eq 139 ] || { echo "a killed child gave status $status"; return 1; }
}

check_sleep() {
    read -r before rest </proc/uptime
    sleep 2
    read -r after rest </proc/uptime
    awk "BEGIN { d = $after - $before; exit !(d > 1.9 && d < 4) }" || { echo "2 s took $before..$after"; return 1; }
}

check_memory_copy() {
    dd if=/dev/urandom of=/tmp/a bs=64k count=128 2>/dev/null
    dd if=/tmp/a of=/tmp/b bs=4k 2>/dev/null
    [ "$(sha256sum </tmp/a)" = "$(sha256sum </tmp/b)" ] || { echo "the copy differs"; return 1; }
    [ "$(stat -c %s /tmp/b)" -eq 8388608 ] || { echo "the copy is short"; return 1; }
    rm -f /tmp/a /tmp/b
}

check_disk() {
    disk=/dev/$(setting disk)
    [ "$disk" != /dev/ ] || { echo SKIP no disk attached; return 0; }
    for wait in 1 2 3 4 5 6 7 8 9 10; do [ -b "$disk" ] || sleep 1; done
    [ -b "$disk" ] || { echo "no $disk"; return 1; }
    # The host wrote this line into the last sector.
    last=$(($(cat /sys/block/${disk#/dev/}/size) - 1))
    dd if="$disk" bs=512 skip=$last count=1 2>/dev/null | grep -q 'paravane disk end' || { echo "last sector differs"; return 1; }
    mke2fs "$disk" >/dev/null 2>&1 && mount -t ext4 "$disk" /mnt || { echo "cannot make and mount a file system"; return 1; }
    dd if=/dev/urandom of=/mnt/file bs=64k count=32 2>/dev/null
    sum=$(sha256sum </mnt/file)
    umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount -t ext4 "$disk" /mnt || { echo "cannot mount again"; return 1; }
    [ "$sum" = "$(sha256sum </mnt/file)" ] || { echo "the file came back changed"; return 1; }
    umount /mnt
}

check_network() {
    [ -n "$(setting net)" ] || { echo SKIP no network attached; return 0; }
    ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || return 1
    ping -c 3 -W 10 10.0.2.2 >/tmp/ping || { cat /tmp/ping; return 1; }
}

check_kernel_log_is_clean() {
    dmesg | grep -E 'WARNING|BUG|Call Trace|Oops|general protection|stack segment|bad pte' && return 1
    return 0
}

checks=$(setting only | tr , ' ')
[ -n "$checks" ] || checks=$(cat /lib/checks)
echo "TAP version 13"
echo "1..$(echo "$checks" | wc -w)"
number=0
for name in $checks; do
    number=$((number + 1))
    if said=$(check_$name 2>&1); then
        case "$said" in SKIP*) echo "ok $number - $name # $said" ;; *) echo "ok $number - $name" ;; esac
    else
        echo "not ok $number - $name"
        echo "$said" | sed 's/^/# /'
    fi
done
echo "# self-test done"
sync
case "$(setting end)" in reboot) busybox reboot -f ;; *) busybox poweroff -f ;; esac
