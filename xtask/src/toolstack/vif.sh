#!/bin/bash
# Hotplug script of a network device: puts the back end's interface into the bridge br0.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
[ "$1" = online ] || exit 0
ip link set "$vif" up && brctl addif br0 "$vif" &&
    xenstore-write "$XENBUS_PATH/hotplug-status" connected
