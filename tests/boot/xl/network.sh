# The web server behind Linux's network back end, in a bridge with the first domain.
brctl addbr br0
ip link set br0 up
ip addr add 10.0.2.1/24 dev br0
cat > /tmp/web.cfg <<END
name = "web"
type = "pv"
kernel = "/test/webserver"
extra = "address=10.0.2.20/24"
memory = 32
vif = ["bridge=br0,script=paravane-vif"]
END
xl create /tmp/web.cfg
for second in $(seq 60); do
    sleep 1
    grep -q "webserver: .* port 80" /var/log/xen/console/guest-web.log && break
done
cat /var/log/xen/console/guest-web.log
wget -q -O - http://10.0.2.20/ | grep -q "<title>webserver</title>" && echo "network: the page arrived"
wget -q -O /tmp/bytes http://10.0.2.20/bytes/2000000
# Byte number i is i modulo 251.
awk 'BEGIN { for (i = 0; i < 251; i++) printf "%02x\n", i }' > /tmp/period
od -A n -v -t x1 -w1 /tmp/bytes | tr -d ' ' | awk 'NR == FNR { p[NR - 1] = $1; next } { if ($1 != p[n++ % 251]) exit 1 } END { print n }' \
    /tmp/period - > /tmp/count
[ "$(cat /tmp/count)" = 2000000 ] && echo "network: 2000000 bytes arrived"
wget -q -O - http://10.0.2.20/statistics
