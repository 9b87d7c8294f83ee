# Each example once as a PV and once as a PVH domain; each line of their consoles with the domain's name in front.
for kernel in hello multitask; do
    for type in pv pvh; do
        name=$kernel-$type
        cat > /tmp/$name.cfg <<END
name = "$name"
type = "$type"
kernel = "/test/$kernel"
memory = 64
on_poweroff = "preserve"
on_crash = "preserve"
END
        xl create /tmp/$name.cfg || continue
        for second in $(seq 60); do
            sleep 1
            grep -q "$kernel: .*step" /var/log/xen/console/guest-$name.log && break
        done
        sed "s/^/$name: /" /var/log/xen/console/guest-$name.log
    done
done
