#!/usr/bin/env bash
# A stable update of Xen 4.17 changed an error that guests see. GNTTABOP_copy with a frame number (no GNTCOPY_*_gref) in the
# name of a domain other than DOMID_SELF is refused by both packages of Debian 12, with different statuses where that domain
# does not exist or only names a kind of memory (DOMID_IO):
#   4.17.5+72 (bookworm)            GNTST_permission_denied (-8): who may name frames is judged first
#   4.17.7+13 (bookworm-security)   GNTST_bad_domain (-2): the domain is looked up first
# A domain that exists, the caller's own number among them, gets -8 from both.
#
# Who meets it: a conformance suite, or an implementation of Xen's interface, that takes "Xen 4.17" for one behaviour; which
# of the two a machine has depends on whether its security updates are in.
#
# The PV kernel below is assembled here, boots as first domain under QEMU's emulation, makes three copies and prints their
# statuses; the script fails when they change. Needs apt-get on Debian 12 with its security archive, gcc, binutils and
# qemu-system-x86_64; everything else goes to a folder that is removed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

cat > kernel.S <<'KERNEL'
        .set    console_io, 18
        .set    grant_table_op, 20
        .set    sched_op, 29
        .text
        .globl  start
start:  lea     stack(%rip), %rsp
        mov     $'c', %edi
        call    byte
        lea     copies(%rip), %rbx
        mov     $3, %r12d
1:      mov     $5, %edi                        # GNTTABOP_copy, one
        mov     %rbx, %rsi
        mov     $1, %edx
        mov     $grant_table_op, %eax
        syscall
        mov     $' ', %edi
        call    byte
        mov     $'-', %edi
        call    byte
        movswl  36(%rbx), %edi                  # the status, negative and above -10
        neg     %edi
        add     $'0', %edi
        call    byte
        add     $40, %rbx
        dec     %r12d
        jnz     1b
        mov     $'\n', %edi
        call    byte
        mov     $2, %edi                        # SCHEDOP_shutdown, SHUTDOWN_reboot
        lea     reason(%rip), %rsi
        mov     $sched_op, %eax
        syscall
        ud2

byte:   mov     %dil, letter(%rip)
        xor     %edi, %edi                      # CONSOLEIO_write
        mov     $1, %esi
        lea     letter(%rip), %rdx
        mov     $console_io, %eax
        syscall
        ret

        .data
        .balign 8
letter: .quad   0
reason: .long   1
        .balign 8
        # source: frame, domain, offset; destination the same; length, flags, status
        .macro  copy domain
        .quad   1
        .word   \domain, 0, 0, 0
        .quad   1
        .word   0x7ff0, 0, 0, 0
        .word   8, 0, 0, 0
        .endm
copies: copy    0                               # the caller's own number
        copy    0x7ff1                          # DOMID_IO
        copy    77                              # no domain
        .bss
        .space  4096
stack:

        .macro  note kind, value:vararg
        .long   4, 2f - 1f, \kind
        .asciz  "Xen"
1:      \value
2:      .balign 4
        .endm
        .section .note.Xen, "a", @note
        note    1, .quad start                  # ENTRY
        note    3, .quad 0xffffffff80000000     # VIRT_BASE
        note    4, .quad 0xffffffff80000000     # PADDR_OFFSET
        note    5, .asciz "xen-3.0"             # XEN_VERSION
        note    6, .asciz "probe"               # GUEST_OS
        note    8, .asciz "generic"             # LOADER
        note    9, .asciz "yes"                 # PAE_MODE
KERNEL
gcc -c -o kernel.o kernel.S
ld -static -no-pie -z noexecstack -Ttext=0xffffffff80100000 --section-start=.note.Xen=0xffffffff80108000 -e start -o kernel.elf kernel.o

check() { # version, what it prints
    apt-get download -qq -o APT::Sandbox::User=root "xen-hypervisor-4.17-amd64=$1" 2> /dev/null
    dpkg-deb --fsys-tarfile xen-hypervisor-4.17-amd64_*.deb | tar -xO ./boot/xen-4.17-amd64.gz | gunzip > xen.elf
    rm xen-hypervisor-4.17-amd64_*.deb
    seen=$(timeout 120 qemu-system-x86_64 -accel tcg -cpu max -m 512 -no-reboot -monitor none -serial stdio -display none \
        -nodefaults -kernel xen.elf -append "console=com1 com1=115200,8n1 dom0_mem=128M" -initrd kernel.elf |
        tr -d '\r' | tee log | grep -ao 'c\( -[0-9]\)\{3\}$' || true)
    echo "Xen $1: own number, DOMID_IO, no domain: $seen"
    if [ "$seen" != "$2" ]; then
        echo "the behaviour changed: expected $2" >&2
        tail -20 log >&2
        exit 1
    fi
}
check 4.17.5+72-g01140da4e8-1 'c -8 -8 -8'
check 4.17.7+13-g2445b30a44-0+deb12u1 'c -8 -2 -2'
