# In the first domain: a Linux domain with a disk that is memory and two interfaces at one bridge, and who watches it.
brctl addbr br0
ip link set br0 up
cat > /tmp/front.cfg <<END
name = "front"
type = "pv"
kernel = "/test/vmlinuz"
ramdisk = "/test/front.cpio"
extra = "console=hvc0 quiet"
memory = 192
disk = ["format=raw,vdev=xvda,access=rw,script=paravane-disk,target=/dev/ram0"]
vif = ["bridge=br0,script=paravane-vif", "bridge=br0,script=paravane-vif"]
END
log=/var/log/xen/console/guest-front.log
xl create /tmp/front.cfg
while [ ! -f $log ]; do sleep 0.1; done
/test/io watch $log "$(xl domid front)"
grep -v " begin\| end" $log
