#!/bin/busybox sh
# One of two domains that try the network between them. paravane.address= on the kernel's command line is the own address,
# paravane.pair= the other's. Each serves a random file by HTTP and fetches the other's; each line that starts with "pair:"
# says what came of it.
setting() {
    for word in $(cat /proc/cmdline); do
        case "$word" in paravane.$1=*) echo "${word#*=}" ;; esac
    done
}
sum() { sha256sum "$1" | cut -d ' ' -f 1; }

own=$(setting address)
peer=$(setting pair)
blocks=$(setting blocks)
for wait in 1 2 3 4 5 6 7 8 9 10; do [ -d /sys/class/net/eth0 ] || sleep 1; done
ifconfig lo up
ifconfig eth0 "$own" netmask 255.255.255.0 up || { echo "pair: no network"; exit 1; }

mkdir -p /srv
dd if=/dev/urandom of=/srv/file bs=64k count="${blocks:-32}" 2>/dev/null
echo yes >/srv/ready
sync
echo "pair: serving $(stat -c %s /srv/file) bytes $(sum /srv/file)"
httpd -p 5001 -h /srv

# The other one may still be on its way.
for try in $(seq 1 60); do
    wget -q -O /dev/null "http://$peer:5001/ready" 2>/dev/null && break
    sleep 1
done
echo "pair: ping $(ping -c 5 -W 10 "$peer" | sed -n 's/.*transmitted, //p')"
start=$(cut -d. -f1 /proc/uptime)
wget -q -O /srv/fetched "http://$peer:5001/file"
end=$(cut -d. -f1 /proc/uptime)
echo "pair: fetched $(stat -c %s /srv/fetched) bytes $(sum /srv/fetched) in $((end - start)) s"
# Once more from the disk, past all caches.
sync
echo 3 >/proc/sys/vm/drop_caches
echo "pair: kept $(sum /srv/fetched)"
echo "pair: done"
