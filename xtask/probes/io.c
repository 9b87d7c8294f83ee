/* Counts what Linux's block and network front and back ends cost, for `cargo xtask bench io`.
 *
 *   io blk NAME DEVICE DEPTH N     in a domain: reads 4 KiB N times past the page cache, DEPTH at once
 *   io net NAME FROM TO DEPTH N    in a domain: sends N frames of 1,514 bytes from one interface to another, DEPTH at once;
 *                                  from lo to lo: what such frames cost above any driver
 *   io watch LOG DOMAIN            in the first domain: waits for the lines of these in the domain's console log, and
 *                                  prints `io NAME N FRONT BACK`: nanoseconds of CPU time of both domains in between
 *
 * A domain sleeps before and after its rounds, longer than the watcher does between two looks. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096
#define DEEPEST 64
#define FRAME 1514
/* IEEE 802's number for local experiments. */
#define ETHERTYPE 0x88b5
/* Between two reads: neighbours would become one request. */
#define STRIDE 7

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void begin(const char *name, long count)
{
    printf("io: %s %ld begin\n", name, count);
    fflush(stdout);
    sleep(2);
}

static void end(const char *name, long count)
{
    printf("io: %s %ld end\n", name, count);
    fflush(stdout);
    sleep(2);
}

static void read_one_by_one(int disk, char *page, long pages, long count)
{
    for (long i = 0; i < count; i++)
        if (pread(disk, page, PAGE, i * STRIDE % pages * PAGE) != PAGE)
            die("pread");
}

static void read_many(int disk, char *memory, long pages, long depth, long count)
{
    aio_context_t context = 0;
    struct iocb blocks[DEEPEST], *list[DEEPEST];
    struct io_event events[DEEPEST];
    long asked = 0, answered = 0, fresh = 0;

    if (syscall(SYS_io_setup, DEEPEST, &context))
        die("io_setup");
    for (long i = 0; i < depth; i++)
        list[fresh++] = &blocks[i];
    while (answered < count) {
        long n = 0;
        while (n < fresh && asked < count) {
            struct iocb *block = list[n++];
            memset(block, 0, sizeof *block);
            block->aio_lio_opcode = IOCB_CMD_PREAD;
            block->aio_fildes = disk;
            block->aio_buf = (uintptr_t)(memory + (block - blocks) * PAGE);
            block->aio_nbytes = PAGE;
            block->aio_offset = asked++ * STRIDE % pages * PAGE;
            block->aio_data = (uintptr_t)block;
        }
        if (n && syscall(SYS_io_submit, context, n, list) != n)
            die("io_submit");
        fresh = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
        if (fresh < 1)
            die("io_getevents");
        for (long i = 0; i < fresh; i++) {
            if (events[i].res != PAGE)
                die("read");
            list[i] = (struct iocb *)(uintptr_t)events[i].data;
        }
        answered += fresh;
    }
    syscall(SYS_io_destroy, context);
}

static void blk(const char *name, const char *device, long depth, long count)
{
    int disk = open(device, O_RDONLY | O_DIRECT);
    char *memory = mmap(NULL, DEEPEST * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    off_t pages = disk < 0 ? 0 : lseek(disk, 0, SEEK_END) / PAGE;

    if (memory == MAP_FAILED || pages < 1 || depth < 1 || depth > DEEPEST)
        die(device);
    begin(name, count);
    if (depth == 1)
        read_one_by_one(disk, memory, pages, count);
    else
        read_many(disk, memory, pages, depth, count);
    end(name, count);
}

/* A socket at an interface, that gets packets of a protocol, or none of protocol 0; its address goes to `mac`. */
static int raw(const char *interface, int protocol, unsigned char *mac)
{
    int fd = socket(AF_PACKET, SOCK_RAW, htons(protocol));
    struct ifreq request = { 0 };
    struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(protocol) };
    struct timeval patience = { .tv_sec = 5 };
    int room = 4 << 20;

    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    at.sll_ifindex = if_nametoindex(interface);
    if (fd < 0 || !at.sll_ifindex || bind(fd, (struct sockaddr *)&at, sizeof at) || ioctl(fd, SIOCGIFHWADDR, &request))
        die(interface);
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    return fd;
}

static void net(const char *name, const char *from, const char *to, long depth, long count)
{
    unsigned char frame[FRAME] = { 0 }, back[FRAME] = { 0 }, received[FRAME];
    int sender = raw(from, 0, frame + 6), receiver = raw(to, ETHERTYPE, frame);

    frame[12] = back[12] = ETHERTYPE >> 8;
    frame[13] = back[13] = ETHERTYPE & 255;
    /* The bridge shall know where the receiver is. */
    memcpy(back, frame + 6, 6);
    memcpy(back + 6, frame, 6);
    if (send(receiver, back, FRAME, 0) != FRAME)
        die("send");
    begin(name, count);
    for (long done = 0; done < count; done += depth) {
        for (long i = 0; i < depth; i++)
            if (send(sender, frame, FRAME, 0) != FRAME)
                die("send");
        for (long i = 0; i < depth; i++)
            if (recv(receiver, received, FRAME, 0) != FRAME)
                die("recv");
    }
    end(name, count);
}

/* XEN_DOMCTL_getdomaininfo of Xen 4.17: nanoseconds for which the domain's CPUs have run. */
static uint64_t cpu_time(int domain)
{
    static int privcmd = -1;
    static struct {
        uint32_t command, version;
        uint16_t domain, pad[3];
        union {
            struct { uint8_t before[56]; uint64_t cpu_time; } info;
            uint8_t bytes[128];
        };
    } request __attribute__((aligned(256)));
    struct { uint64_t op, arg[5]; } call = { 36, { (uintptr_t)&request } };

    if (privcmd < 0 && (privcmd = open("/dev/xen/privcmd", O_RDWR)) < 0)
        die("/dev/xen/privcmd");
    memset(&request, 0, sizeof request);
    request.command = 5;
    request.version = 0x15;
    request.domain = domain;
    if (ioctl(privcmd, _IOC(_IOC_NONE, 'P', 0, sizeof call), &call) || request.domain != domain)
        die("getdomaininfo");
    return request.info.cpu_time;
}

static void watch(const char *log, int domain)
{
    FILE *lines = fopen(log, "r");
    char line[256], name[64], what[16];
    uint64_t front = 0, back = 0;
    long count;

    if (!lines)
        die(log);
    for (;;) {
        if (!fgets(line, sizeof line, lines)) {
            clearerr(lines);
            usleep(250 * 1000);
            continue;
        }
        if (!strncmp(line, "io: finished", 12))
            return;
        if (sscanf(line, "io: %63s %ld %15s", name, &count, what) != 3)
            continue;
        uint64_t front_now = cpu_time(domain), back_now = cpu_time(0);
        if (!strcmp(what, "end"))
            printf("io %s %ld %lu %lu\n", name, count, front_now - front, back_now - back);
        fflush(stdout);
        front = cpu_time(domain);
        back = cpu_time(0);
    }
}

int main(int argc, char **argv)
{
    if (argc == 6 && !strcmp(argv[1], "blk"))
        blk(argv[2], argv[3], atol(argv[4]), atol(argv[5]));
    else if (argc == 7 && !strcmp(argv[1], "net"))
        net(argv[2], argv[3], argv[4], atol(argv[5]), atol(argv[6]));
    else if (argc == 4 && !strcmp(argv[1], "watch"))
        watch(argv[2], atoi(argv[3]));
    else
        return 2;
    return 0;
}
