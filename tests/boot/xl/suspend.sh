# The example `suspend` is saved and goes on, is saved and restored twice, and powers off when asked to: as a PV and as a
# PVH domain, with each layout of event channels.

# Waits until the kernel said a line, and as many times as that that all is there.
passed() { # name, what, the line, how many times
    for second in $(seq 90); do
        sleep 1
        grep -q "suspend: not so" $log && break
        if grep -q "suspend: $3" $log && [ $(grep -c "suspend: all is there" $log) -ge $4 ]; then
            echo "$1: $2 passed"
            return
        fi
    done
    xl list
    tail -n 20 /var/log/xen/xl-*.log
}

for name in pv-two-level pv-fifo pvh-two-level pvh-fifo; do
    log=/var/log/xen/console/guest-$name.log
    type=${name%%-*}
    # A PVH kernel of ours uses one CPU.
    cat > /tmp/$name.cfg <<END
name = "$name"
type = "$type"
kernel = "/test/suspend"
extra = "${name#*-}"
memory = 32
vcpus = $([ $type = pv ] && echo 2 || echo 1)
on_crash = "preserve"
END
    xl create /tmp/$name.cfg || continue
    for second in $(seq 60); do
        sleep 1
        grep -q "suspend: ready" $log && break
    done
    xl save -c $name /tmp/$name.checkpoint
    passed $name checkpoint "cancelled as" 1
    for turn in 1 2; do
        id=$(xl domid $name)
        xl save $name /tmp/$name.saved
        xl restore /tmp/$name.saved
        [ "$(xl domid $name)" != "$id" ] || echo "$name: the same domain"
        passed $name "restore $turn" "resumed as $(xl domid $name)" $((turn + 1))
    done
    xl shutdown -w $name && echo "$name: powered off"
    sed "s/^/$name: /" $log
    rm /tmp/$name.*
done
