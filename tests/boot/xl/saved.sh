# The example `saved` uses a disk of Linux's while it is saved and goes on, and while it is saved and restored twice.
log=/var/log/xen/console/guest-saved.log
cat > /tmp/saved.cfg <<END
name = "saved"
type = "pv"
kernel = "/test/saved"
memory = 32
disk = ["format=raw,vdev=xvda,access=rw,script=paravane-disk,target=/dev/ram0"]
on_crash = "preserve"
END

# Waits until the kernel said a line so many times.
passed() { # what, the line, how many times
    for second in $(seq 90); do
        sleep 1
        grep -q "saved: FAILED" $log && break
        if [ $(grep -c "saved: $2" $log) -ge $3 ]; then
            echo "saved: $1 passed"
            return
        fi
    done
    xl list
    tail -n 20 /var/log/xen/xl-*.log
}

xl create /tmp/saved.cfg
passed start ready 1
xl save -c saved /tmp/checkpoint
passed checkpoint cancelled 1
for turn in 1 2; do
    xl save saved /tmp/image
    xl restore /tmp/image
    passed "restore $turn" restored $turn
done
xl shutdown -w saved && echo "saved: powered off"
sed "s/^/console: /" $log
