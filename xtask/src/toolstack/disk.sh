#!/bin/bash
# Hotplug script of a disk: tells the block back end which device `params` is. Debian's own needs udev.
export PATH=/bin:/usr/bin:/usr/sbin
[ "$1" = add ] || exit 0
params=$(xenstore-read "$XENBUS_PATH/params")
number=$(stat -L -c '%t:%T' "$params") || exit 1
xenstore-write "$XENBUS_PATH/physical-device" "$number" \
    "$XENBUS_PATH/physical-device-path" "$params" "$XENBUS_PATH/hotplug-status" connected
