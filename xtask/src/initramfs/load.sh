#!/bin/sh
# A minute of a busy machine: forks, programs and pipes for the seconds that paravane.load= on the kernel's command line
# says, in as many jobs as there are CPUs; then one line on the console with what was done.
seconds=$(sed -n 's/.*paravane\.load=\([0-9]*\).*/\1/p' /proc/cmdline)
now() { cut -d. -f1 /proc/uptime; }

# 38 of the numbers from 1 to 200 have a 7 in them.
job() {
    rounds=0
    failed=0
    while [ "$(now)" -lt "$end" ]; do
        found=$(/bin/seq 1 200 | /bin/grep 7 | /bin/wc -l)
        [ "$found" -eq 38 ] || failed=$((failed + 1))
        rounds=$((rounds + 1))
    done
    echo "$rounds $failed"
}

end=$(($(now) + seconds))
for cpu in $(seq 1 "$(nproc)"); do
    job >"/tmp/load.$cpu" &
done
wait
sort /tmp/load.* | awk -v s="$seconds" '{ rounds += $1; failed += $2 }
    END { printf "load: %d rounds in %d s, %d failed\n", rounds, s, failed }' >/dev/console
